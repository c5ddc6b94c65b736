"""What can go wrong with a sandbox itself.

SandboxError
├── SandboxUnavailable   no backend proves every wall that the spec asks for; nothing was run
├── SandboxLost          the sandbox died under a call (killed, daemon gone): infrastructure, retry elsewhere
└── SandboxFileError     a path that is refused or missing: the caller's fault, often the policy's
    └── ArchiveRefused   an archive that is damaged, hostile or over a limit; nothing of it was written

What the program inside does (crashes, hangs, eats memory) is never an exception: it is an `ExecResult`.
"""


class SandboxError(Exception):
    """Root of the tree above."""


class SandboxUnavailable(SandboxError):
    """No backend can hold the walls that the spec asks for. The message names the wall and the cure."""


class SandboxLost(SandboxError):
    """The sandbox or its daemon died; whether the command ran is unknown."""


class SandboxFileError(SandboxError):
    """A file call was refused: missing, outside the workspace, not a regular file, or over a limit."""


class ArchiveRefused(SandboxFileError):
    """An archive, or an entry of it, was refused before a byte was written."""
