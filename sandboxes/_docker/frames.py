"""What a Docker sandbox and its guest send each other.

A frame is a 4-byte length and then fields, each behind its own 4-byte length.
"""

from __future__ import annotations

import os
import struct

CHUNK = 1 << 18
"""Bytes of file or stdin content in one frame."""


def pack(*fields: bytes) -> bytes:
    """One frame.

    >>> pack(b"ok")
    b'\\x00\\x00\\x00\\x06\\x00\\x00\\x00\\x02ok'
    """
    body = b"".join(struct.pack(">I", len(field)) + field for field in fields)
    return struct.pack(">I", len(body)) + body


def unpack(body: bytes) -> list[bytes]:
    """The fields of a frame without its length. Raises ValueError for a malformed one."""
    fields: list[bytes] = []
    at = 0
    while at < len(body):
        if at + 4 > len(body):
            raise ValueError("frame ends inside a field's length")
        (size,) = struct.unpack_from(">I", body, at)
        at += 4 + size
        if at > len(body):
            raise ValueError("frame ends inside a field")
        fields.append(body[at - size : at])
    return fields


class Link:
    """The guest's end: frames on fd 0 and fd 1. A closed fd 0 ends this process."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def fill(self) -> None:
        data = os.read(0, 1 << 16)
        if not data:
            os._exit(0)
        self._buffer += data

    def next(self) -> list[bytes] | None:
        """A frame that has arrived whole, or None."""
        if len(self._buffer) < 4:
            return None
        (size,) = struct.unpack_from(">I", self._buffer)
        if len(self._buffer) < 4 + size:
            return None
        body = bytes(self._buffer[4 : 4 + size])
        del self._buffer[: 4 + size]
        return unpack(body)

    def receive(self) -> list[bytes]:
        while True:
            frame = self.next()
            if frame is not None:
                return frame
            self.fill()

    def send(self, *fields: bytes) -> None:
        rest = memoryview(pack(*fields))
        while rest:
            rest = rest[os.write(1, rest) :]
