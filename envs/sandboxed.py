"""Tool environments with a sandbox of their own."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import ClassVar

from ..sandboxes import ExecResult, ExecStatus, Sandbox, SandboxFileError, SandboxSpec, open_sandbox
from ..sandboxes.harvest import harvest
from ..sandboxes.sandbox import is_word
from .env import TaskT
from .episode import Workspace
from .errors import ToolError
from .tools import ToolEnv


class SandboxToolEnv(ToolEnv[TaskT]):
    """A `ToolEnv` with one sandbox an episode, opened by the first use.

    class Shell(SandboxToolEnv[Task]):
        @tool
        async def bash(self, command: str) -> str:
            return transcript(await self.run(["bash", "-c", command]))
    """

    sandbox: ClassVar[SandboxSpec] = SandboxSpec()
    max_workspace_bytes: ClassVar[int] = 1 << 20
    """Files over this, all together, are left out of the episode's workspace; 0 keeps none."""

    def __init__(self) -> None:
        self._open = AsyncExitStack()
        self._opening = asyncio.Lock()
        self._box: Sandbox | None = None

    async def box(self) -> Sandbox:
        """The episode's sandbox."""
        async with self._opening:
            if self._box is None:
                self._box = await self._open.enter_async_context(open_sandbox(self.sandbox))
        return self._box

    async def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout_s: float = 10.0,
        output_limit: int = 1 << 16,
    ) -> ExecResult:
        """Run a program whose words may be the policy's: what no command line can hold is its mistake."""
        if not all(map(is_word, argv)):
            raise ToolError("a command line cannot hold a NUL character or half of a surrogate pair")
        box = await self.box()
        return await box.run(argv, stdin=stdin, timeout_s=timeout_s, output_limit=output_limit)

    async def close(self) -> None:
        """Close the sandbox, if there is one."""
        await self._open.aclose()

    def facts(self) -> Mapping[str, str]:
        """The tier of the sandbox that was used."""
        return {} if self._box is None else {"sandbox": self._box.tier}

    async def workspace(self) -> Workspace | None:
        """The regular files that the episode left in its sandbox."""
        if self._box is None or self.max_workspace_bytes == 0:
            return None
        return await export(self._box, max_bytes=self.max_workspace_bytes)


MAX_ENTRIES = 1000
"""Directory entries that `export` looks at: a policy can make millions."""


async def export(box: Sandbox, *, max_bytes: int) -> Workspace:
    """The regular files of a sandbox, from the top down, as long as they fit."""
    try:
        found = await harvest(box, max_bytes=max_bytes, max_entries=MAX_ENTRIES)
    except SandboxFileError:  # the policy took the files away, or the right to list them
        return Workspace(files=())
    # A name need not be UTF-8; the record must be.
    files = ((path.encode(errors="replace").decode(), data) for path, data in found.files)
    return Workspace(files=tuple(sorted(files)))


def transcript(result: ExecResult) -> str:
    """What a program wrote, and how it ended unless it ended well.

    >>> transcript(await box.run(["false"]))
    '[exit code 1]'
    """
    text = (result.stdout + result.stderr).decode(errors="replace")
    if result.status is ExecStatus.OK:
        return text
    how = f"exit code {result.exit_code}" if result.status is ExecStatus.NONZERO else result.status.value
    return f"{text}[{how}]"
