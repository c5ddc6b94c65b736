"""Frames between the driver and a sandbox's supervisor: two lengths, a JSON header, raw bytes.

Each sandbox has one socket; programs inside never hold it.
"""

import json
import os
import struct
from typing import Any

LENGTHS = struct.Struct("!II")
MAX_HEADER = 64 << 20
"""Bytes; a directory listing is the largest header."""

Header = dict[str, Any]
"""What JSON carries; each side reads the fields that it knows by name."""


def pack(header: Header, payload: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return b"".join((LENGTHS.pack(len(text), len(payload)), text, payload))


def send(fd: int, header: Header, payload: bytes = b"") -> None:
    view = memoryview(pack(header, payload))
    while view:
        view = view[os.write(fd, view) :]


def receive(fd: int) -> tuple[Header, bytes] | None:
    """The next frame, or None when the other side is gone."""
    head = _exactly(fd, LENGTHS.size)
    if head is None:
        return None
    header_size, payload_size = LENGTHS.unpack(head)
    body = _exactly(fd, header_size + payload_size)
    if body is None:
        return None
    return json.loads(body[:header_size]), body[header_size:]


def _exactly(fd: int, size: int) -> bytes | None:
    first = os.read(fd, min(size, 1 << 20)) if size else b""
    if len(first) == size:
        return first
    data = bytearray(first)
    while first and len(data) < size:
        first = os.read(fd, min(size - len(data), 1 << 20))
        data += first
    return bytes(data) if len(data) == size else None
