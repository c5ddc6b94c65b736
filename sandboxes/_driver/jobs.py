"""A job of a sandbox, seen from the driver."""

import asyncio
import signal
from collections.abc import AsyncIterator
from typing import Any, Protocol

from ..job import Chunk, Job
from ..sandbox import ExecResult
from . import parts
from .calls import Streams

KILL_S = 30.0
"""How long a job may take to be gone, on an overloaded machine; then its sandbox is ended."""


class Box(parts.Box, Protocol):
    """What a job needs of its sandbox."""

    async def ask(self, head: dict[str, Any], *payload: bytes) -> bytes: ...
    def tell(self, head: dict[str, Any]) -> None: ...
    def end_now(self) -> None: ...


class ClientJob(Job):
    """A job; `streams` is what its program wrote, and how it ended."""

    def __init__(self, box: Box, number: int, *, takes_input: bool) -> None:
        self.id = number
        self._box = box
        self._takes_input = takes_input
        self.feeding: asyncio.Task[None] | None = None
        """What is on its way of a standard input that was given whole."""
        self.streams = Streams(self._acknowledge)

    def _acknowledge(self, size: int) -> None:
        self._box.tell({"op": "ack", "job": self.id, "size": size})

    async def send(self, data: bytes, *, is_last: bool = False) -> None:
        if not self._takes_input:
            raise ValueError(f"job {self.id} got its whole input at its start; stdin=None keeps it open")
        await parts.feed(self._box, self.id, data, is_last=is_last)

    def chunks(self) -> AsyncIterator[Chunk]:
        return self.streams.chunks()

    def poll(self) -> ExecResult | None:
        return self.streams.result

    async def wait(self) -> ExecResult:
        return await self.streams.ended()

    async def signal(self, number: int = signal.SIGINT) -> None:
        if not 0 < number < signal.NSIG:
            raise ValueError(f"number must be that of a signal, 1 to {signal.NSIG - 1}; got {number}")
        await self._box.ask({"op": "signal", "job": self.id, "number": int(number)})

    async def kill(self) -> ExecResult:
        self._box.tell({"op": "cancel", "job": self.id})
        self.streams.discard()
        try:
            async with asyncio.timeout(KILL_S):
                return await self.streams.ended()
        except TimeoutError:
            self._box.end_now()
            return await self.streams.ended()
