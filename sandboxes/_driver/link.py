"""The driver's end of a sandbox's connection: requests go out at once, replies come to whoever waits.

An open link belongs to the event loop that opened it.
"""

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Iterable
from io import BytesIO
from typing import Any

from .._inside.wire import LENGTHS, request

_READ = 1 << 17
_MADE_READY = 64 << 20
"""Bytes of memory that a reply may ask for before they have come."""
MAX_HEAD = 1 << 12
"""Bytes of a reply's head. What comes out of a sandbox is not trusted to be short."""

OnReply = Callable[[int, list[bytes], bytes], None]
"""(channel, words of the head, payload)."""
Unwrap = Callable[[bytes], Iterable[memoryview]]
"""What of the bytes of a stream belongs to frames, where a transport wraps them in its own."""


class Link:
    """Frames over `sock`, which is its to close.

    `on_end` is called once, when the other side is gone or makes no sense.
    """

    def __init__(
        self, sock: socket.socket, on_reply: OnReply, on_end: Callable[[], None], unwrap: Unwrap | None = None
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._on_reply, self._on_end, self._unwrap = on_reply, on_end, unwrap
        self._unsent: deque[memoryview] = deque()
        self._start = bytearray()
        self._needed = LENGTHS.size
        self._channel = self._left = 0
        self._words: list[bytes] = []
        self._payload: BytesIO | None = None
        self.is_open = True
        self.max_descriptors = 0
        """How many may come with replies; they are the taker's to close."""
        self.descriptors: list[int] = []
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock, self._on_readable)

    def send(self, channel: int, head: dict[str, Any], *payload: bytes) -> None:
        """Send what goes now, and the rest as soon as it does. Nothing is sent to an end that is gone."""
        if not self.is_open:
            return
        start = request(channel, head, sum(map(len, payload)))
        is_waiting = bool(self._unsent)
        self._unsent.extend(memoryview(part) for part in (start, *payload) if part)
        if not is_waiting:
            self._flush()
            if self._unsent:
                self._loop.add_writer(self._sock, self._on_writable)

    def _on_writable(self) -> None:
        self._flush()
        if not self._unsent and self.is_open:
            self._loop.remove_writer(self._sock)

    def _flush(self) -> None:
        unsent = self._unsent
        try:
            while unsent:
                sent = self._sock.sendmsg(list(unsent)[:16])
                while unsent and sent >= len(unsent[0]):
                    sent -= len(unsent.popleft())
                if sent:
                    unsent[0] = unsent[0][sent:]
        except BlockingIOError:
            return
        except OSError:
            unsent.clear()  # the reader finds the end of the stream, and says what it means

    def _on_readable(self) -> None:
        try:
            if self.max_descriptors:
                data, fds, _, _ = socket.recv_fds(self._sock, _READ, self.max_descriptors)
                self.descriptors += fds
            else:
                data = self._sock.recv(_READ)
        except BlockingIOError:
            return
        except OSError:  # however the way to a distant engine broke
            data = b""
        try:
            for part in self._unwrap(data) if self._unwrap else (memoryview(data),):
                self._feed(part)
        except (ValueError, IndexError):  # a frame, or words, that make no sense
            data = b""
        if not data:
            self.close()

    def _feed(self, data: memoryview) -> None:
        """Take the next bytes. Raises `ValueError` when they cannot be a reply."""
        while data:
            if self._payload is None:
                taken = data[: self._needed - len(self._start)]
                self._start += taken
                data = data[len(taken) :]
                if len(self._start) == self._needed:
                    self._on_start()
            else:
                taken = data[: self._left]
                self._payload.write(taken)
                self._left -= len(taken)
                data = data[len(taken) :]
                if not self._left:
                    self._on_whole()

    def _on_start(self) -> None:
        self._channel, head_size, self._left = LENGTHS.unpack_from(self._start)
        if head_size > MAX_HEAD:
            raise ValueError(f"a reply's head of {head_size} bytes")
        self._needed = LENGTHS.size + head_size
        if len(self._start) < self._needed:
            return
        self._words = bytes(self._start[LENGTHS.size :]).split(b" ")
        self._start.clear()
        self._needed = LENGTHS.size
        # As large as it will be: a buffer that grows may be in memory twice for a moment.
        self._payload = BytesIO(bytes(min(self._left, _MADE_READY)))
        if not self._left:
            self._on_whole()

    def _on_whole(self) -> None:
        assert self._payload is not None
        # getvalue() hands its buffer over: a reply is in memory once.
        payload, self._payload = self._payload.getvalue(), None
        self._on_reply(self._channel, self._words, payload)

    def end_requests(self) -> None:
        """Nothing will follow: the other side reads the end of the stream, and leaves."""
        if self.is_open:
            self._unsent.clear()
            self._sock.shutdown(socket.SHUT_WR)

    def detach(self) -> socket.socket:
        """Let go of the socket, for another link."""
        self.is_open = False
        self._unsent.clear()
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        return self._sock

    def close(self) -> None:
        """Safe to call twice."""
        if self.is_open:
            self.detach().close()
            self._on_end()
