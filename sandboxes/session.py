"""A shell or a Python that remembers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .sandbox import ExecResult


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionResult:
    """What one command of a session did."""

    result: ExecResult
    """`exit_code` is what the session says: a command that works at it can lie about its own, and later
    ones'. `Sandbox.run` is the call whose exit code is the kernel's word. `cpu_s` and `max_rss_mb` are 0."""
    is_lost: bool
    """The session ended under this command, with what it remembered. The next command gets a new one."""


class Session(ABC):
    """Made by `Sandbox.shell` and `Sandbox.python`; one command at a time, later ones wait.

    >>> shell = await box.shell()
    >>> await shell.run("cd /tmp; x=5")
    >>> (await shell.run("echo $PWD $x")).result.stdout
    b'/tmp 5\\n'

    Processes that a command leaves in the background live on, to the end of the session.
    """

    @abstractmethod
    async def run(self, code: str, *, timeout_s: float = 10.0, output_limit: int = 1 << 20) -> SessionResult:
        """Run one command. At its time limit it gets Ctrl-C; if that does not help, the session ends.

        Output that its background processes wrote since the last command comes with this one's. Raises
        `SandboxLost` when the sandbox itself is gone.
        """

    @abstractmethod
    async def interrupt(self) -> None:
        """Ctrl-C, for the command under way."""

    @abstractmethod
    async def close(self) -> None:
        """End it, and what it left in the background. Safe to call twice."""
