"""What a client sends, taken piece by piece and never more of it than asked for."""

import re
from typing import Protocol

from .refused import Refused

CHUNK = 1 << 16
"""Bytes that are held at one time beyond what is asked for."""
_BARE_LF = re.compile(rb"(?<!\r)\n")


class Source(Protocol):
    """The way from the client; an `asyncio.StreamReader` is one."""

    async def read(self, size: int, /) -> bytes:
        """1 to `size` bytes, or b"" at the end. Raises `OSError` when the client is gone."""
        ...


class Intake:
    """A source with what was read ahead of it."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._held = bytearray()

    async def peek(self) -> bytes:
        """The next byte, left where it is; b"" at the end."""
        if not self._held:
            self._held += await self._source.read(CHUNK)
        return bytes(self._held[:1])

    async def some(self, max_bytes: int = CHUNK) -> bytes:
        """Whatever is there; b"" at the end."""
        await self.peek()
        return self._cut(min(max_bytes, len(self._held)))

    async def exactly(self, size: int) -> bytes:
        while len(self._held) < size:
            await self._more()
        return self._cut(size)

    async def through(self, end: bytes, max_bytes: int) -> bytes:
        """Lines up to and with `end`, each closed by CR LF."""
        seen = 0
        while True:
            at = self._held.find(end, max(0, seen - len(end)))
            text_ends = len(self._held) if at < 0 else at + len(end)
            if text_ends > max_bytes:
                raise Refused(400, f"a part that may have {max_bytes} bytes is longer")
            if _BARE_LF.search(self._held, seen, text_ends):
                raise Refused(400, "a line is closed by LF alone; HTTP wants CR LF")
            if at >= 0:
                return self._cut(text_ends)
            seen = len(self._held)
            await self._more()

    async def _more(self) -> None:
        data = await self._source.read(CHUNK)
        if not data:
            raise Refused(400, "the connection ended in the middle of a request")
        self._held += data

    def _cut(self, size: int) -> bytes:
        taken = bytes(self._held[:size])
        del self._held[:size]
        return taken
