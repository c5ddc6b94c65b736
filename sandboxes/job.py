"""A program that runs beside other calls, and how to talk to it."""

from __future__ import annotations

import signal
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from .sandbox import ExecResult


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """What a job wrote, in the order in which each stream was written."""

    stream: Literal["stdout", "stderr"]
    data: bytes


class Job(ABC):
    """Made by `Sandbox.start`. It ends with its program, with `kill`, or with the sandbox.

    Its outputs are streams: a program whose chunks nobody takes waits, as behind any pipe.
    """

    id: int
    """Its number in the sandbox: `Sandbox.job(id)` finds it again."""

    @abstractmethod
    async def send(self, data: bytes, *, is_last: bool = False) -> None:
        """Write to its standard input; returns when it has taken them, or will not. Needs `stdin=None`."""

    @abstractmethod
    def chunks(self) -> AsyncIterator[Chunk]:
        """What it writes, to its end. Each chunk counts as read when the next is asked for: a reader that was
        cancelled goes on where it was."""

    @abstractmethod
    def poll(self) -> ExecResult | None:
        """How it ended, or None. Its outputs are in `chunks`, not in the result."""

    @abstractmethod
    async def wait(self) -> ExecResult:
        """Wait for its end. Somebody else must take its chunks. Raises `SandboxLost`."""

    @abstractmethod
    async def signal(self, number: int = signal.SIGINT) -> None:
        """Send a signal to its process group; Ctrl-C by default."""

    @abstractmethod
    async def kill(self) -> ExecResult:
        """End it and everything that it started."""
