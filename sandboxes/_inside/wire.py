"""Frames between the driver and a sandbox: a channel, two lengths, a head, raw bytes.

The channel is the driver's number for a call; replies carry the number of what they answer. Programs inside
never hold the connection. The head of a request is a marshalled dictionary, which costs a fork less memory
than JSON; the head of a reply is words of ASCII, because the driver should unmarshal nothing that comes out
of a sandbox.
"""

from __future__ import annotations

import array
import marshal
import os
import socket
import struct
from collections import deque
from typing import Any, NamedTuple, Protocol

from .pages import Pages

LENGTHS = struct.Struct("!III")
MARSHAL_VERSION = 2
"""What every Python from 3.8 on reads."""
_LEAST = 1 << 10


def weight(size: int) -> int:
    """What a chunk of a stream counts as: many small ones take room too, on both sides."""
    return max(size, _LEAST)


def request(channel: int, head: dict[str, Any], payload_size: int) -> bytes:
    """The driver's part of a frame that goes before its payload."""
    text = marshal.dumps(head, MARSHAL_VERSION)
    return LENGTHS.pack(channel, len(text), payload_size) + text


class DriverGone(Exception):
    """End of file on the connection."""


class Request(NamedTuple):
    """What the driver asks for."""

    channel: int
    head: dict[str, Any]
    """What marshal carried; each call reads the fields that it knows by name."""
    payload: Pages
    """The taker's to close."""


class Inbox:
    """Requests, as they arrive on a descriptor that does not block."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._start = b""
        self._payload: Pages | None = None

    def take(self) -> Request | None:
        """The next request if all of it is here. Raises `DriverGone` at the end of the stream."""
        try:
            return self._take()
        except ConnectionResetError:  # the driver was killed, and had not read every reply
            raise DriverGone from None

    def _take(self) -> Request | None:
        if not self._has(LENGTHS.size):
            return None
        channel, head_size, payload_size = LENGTHS.unpack_from(self._start)
        if not self._has(LENGTHS.size + head_size):
            return None
        if self._payload is None:
            self._payload = Pages(payload_size)
        payload = self._payload
        while payload.filled < payload_size:
            got = payload.read_from(self.fd)
            if got is None:
                return None
            if got == 0:
                raise DriverGone
        head: dict[str, Any] = marshal.loads(self._start[LENGTHS.size :])
        self._start, self._payload = b"", None
        return Request(channel, head, payload)

    def _has(self, size: int) -> bool:
        while len(self._start) < size:
            try:
                more = os.read(self.fd, size - len(self._start))
            except BlockingIOError:
                return False
            if not more:
                raise DriverGone
            self._start += more
        return True


class Bytes(Protocol):
    """What a reply may carry: `pages.Pages` and `pages.Capture`."""

    def view(self) -> memoryview: ...

    def close(self) -> None: ...


class Text:
    """A payload of words."""

    def __init__(self, text: bytes) -> None:
        self._text = text

    def view(self) -> memoryview:
        return memoryview(self._text)

    def close(self) -> None:
        """Words lie in the heap."""


class Outbox:
    """Replies, sent as fast as the driver takes them. The descriptor does not block."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._queue: deque[tuple[bytes, Bytes | None]] = deque()
        self._sent = 0

    def put(self, channel: int, head: bytes, payload: Bytes | None = None) -> None:
        """Send, or keep for `flush`, one reply. Its payload is closed after that."""
        size = 0
        if payload is not None:
            with payload.view() as data:
                size = len(data)
        self._queue.append((LENGTHS.pack(channel, len(head), size) + head, payload))
        if len(self._queue) == 1:
            self.flush()

    def put_descriptors(self, channel: int, head: bytes, fds: list[int]) -> None:
        """Send a reply with descriptors, which are closed here, over a socket."""
        assert self.is_empty, "descriptors go with a frame that goes whole"
        control = array.array("i", fds).tobytes()
        try:
            with socket.socket(fileno=os.dup(self.fd)) as sock:
                sock.sendmsg(
                    [LENGTHS.pack(channel, len(head), 0) + head],
                    [(socket.SOL_SOCKET, socket.SCM_RIGHTS, control)] if fds else [],
                )
        except (BrokenPipeError, ConnectionResetError):
            raise DriverGone from None
        finally:
            for fd in fds:
                os.close(fd)

    @property
    def is_empty(self) -> bool:
        return not self._queue

    def flush(self) -> None:
        """Send what goes. Raises `DriverGone` when nobody is there to take it."""
        try:
            while self._queue:
                start, payload = self._queue[0]
                if not self._send(start, payload):
                    return
                self._queue.popleft()
                self._sent = 0
                if payload is not None:
                    payload.close()
        except BlockingIOError:
            return
        except (BrokenPipeError, ConnectionResetError):
            raise DriverGone from None

    def _send(self, start: bytes, payload: Bytes | None) -> bool:
        """Whether the frame is out whole."""
        if payload is None:
            self._sent += os.write(self.fd, start[self._sent :])
            return self._sent == len(start)
        with payload.view() as data:
            at = self._sent - len(start)
            if at < 0:
                self._sent += os.writev(self.fd, [start[self._sent :], data])
            else:
                with data[at:] as rest:
                    self._sent += os.write(self.fd, rest)
            return self._sent == len(start) + len(data)
