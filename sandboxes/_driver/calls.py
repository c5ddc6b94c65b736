"""What waits for replies: one receiver per channel."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

from .._inside.wire import weight
from ..errors import SandboxError
from ..job import Chunk
from ..sandbox import ExecResult, ExecStatus

Words = list[bytes]
"""Of the head of a reply."""


class Receiver(Protocol):
    """Takes the replies of one channel."""

    def take(self, words: Words, payload: bytes) -> bool:
        """One reply; True when it was the last."""
        ...

    def lose(self, error: SandboxError) -> None:
        """There will be no more."""
        ...


class Answer:
    """One reply: its words and its payload."""

    def __init__(self) -> None:
        self.future: asyncio.Future[tuple[Words, bytes]] = asyncio.get_running_loop().create_future()

    def take(self, words: Words, payload: bytes) -> bool:
        if not self.future.done():
            self.future.set_result((words, payload))
        return True

    def lose(self, error: SandboxError) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class Outcome:
    """The result of a program whose outputs are kept inside until it has ended."""

    def __init__(self) -> None:
        self.future: asyncio.Future[ExecResult] = asyncio.get_running_loop().create_future()
        self._stdout = b""

    def take(self, words: Words, payload: bytes) -> bool:
        if words[0] == b"out":
            self._stdout = payload
            return False
        if not self.future.done():
            self.future.set_result(read_exit(words, self._stdout, payload))
        return True

    def lose(self, error: SandboxError) -> None:
        if not self.future.done():
            self.future.set_exception(error)


def heard(done: asyncio.Future[Any]) -> None:
    """A callback for what nobody may wait for any more: how it ended is no news."""
    if not done.cancelled():
        done.exception()


class Streams:
    """The outputs of a job as they come, and its result."""

    def __init__(self, acknowledge: Callable[[int], None]) -> None:
        self._acknowledge = acknowledge
        self._chunks: deque[tuple[bytes, bytes]] = deque()
        self._news = asyncio.Event()
        self.error: SandboxError | None = None
        self.result: ExecResult | None = None

    def take(self, words: Words, payload: bytes) -> bool:
        self._news.set()
        if words[0] == b"data":
            self._chunks.append((words[1], payload))
            return False
        self.result = read_exit(words, b"", payload)
        return True

    def lose(self, error: SandboxError) -> None:
        self.error = error
        self._news.set()

    @property
    def is_over(self) -> bool:
        return self.result is not None or self.error is not None

    async def ended(self) -> ExecResult:
        """The result. Raises `SandboxLost`."""
        await self.until(lambda: self.is_over)
        if self.result is None:
            assert self.error is not None
            raise self.error
        return self.result

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait for replies until it holds."""
        while not holds():
            self._news.clear()
            await self._news.wait()

    async def next(self) -> tuple[bytes, bytes] | None:
        """The next chunk: the number of its stream and its bytes; None at the end."""
        await self.until(lambda: bool(self._chunks) or self.is_over)
        return self._chunks[0] if self._chunks else None

    def discard(self) -> None:
        """Nobody will read the rest."""
        while self._chunks:
            self.drop_first()

    def drop_first(self) -> None:
        """The first chunk has been read."""
        self._acknowledge(weight(len(self._chunks.popleft()[1])))

    async def chunks(self) -> AsyncIterator[Chunk]:
        while (chunk := await self.next()) is not None:
            yield Chunk(stream="stderr" if chunk[0] == b"2" else "stdout", data=chunk[1])
            self.drop_first()
        if self.error is not None:
            raise self.error


def read_exit(words: Words, stdout: bytes, stderr: bytes) -> ExecResult:
    """What `_inside/job.py` tells of a program's end."""
    _, status, code, wall_s, cpu_s, rss_mb, omitted_stdout, omitted_stderr = words
    return ExecResult(
        status=ExecStatus(status.decode()),
        exit_code=None if code == b"-" else int(code),
        stdout=stdout,
        stderr=stderr,
        omitted_stdout=int(omitted_stdout),
        omitted_stderr=int(omitted_stderr),
        wall_s=float(wall_s),
        cpu_s=float(cpu_s),
        max_rss_mb=float(rss_mb),
    )
