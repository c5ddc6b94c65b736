"""Frames between the driver and a sandbox's supervisor: two lengths, a header, raw bytes.

Each sandbox has one socket; programs inside never hold it. Requests carry their header by marshal, which
costs a fork less memory than JSON; replies carry JSON, because the driver should not unmarshal what comes
out of a sandbox.
"""

import json
import marshal
import os
import struct
from typing import Any

LENGTHS = struct.Struct("!II")
Header = dict[str, Any]
"""What marshal or JSON carries; each side reads the fields that it knows by name."""


def request(header: Header, payload: bytes = b"") -> bytes:
    text = marshal.dumps(header)
    return b"".join((LENGTHS.pack(len(text), len(payload)), text, payload))


def send(fd: int, header: Header, payload: bytes = b"") -> None:
    """Reply to the driver."""
    send_text(fd, json.dumps(header).encode(), payload)


def send_text(fd: int, text: bytes, payload: bytes) -> None:
    """Reply with a header that is JSON already."""
    view = memoryview(b"".join((LENGTHS.pack(len(text), len(payload)), text, payload)))
    while view:
        view = view[os.write(fd, view) :]


def receive(fd: int) -> tuple[Header, bytes] | None:
    """The next request, or None when the driver is gone."""
    head = _exactly(fd, LENGTHS.size)
    if head is None:
        return None
    header_size, payload_size = LENGTHS.unpack(head)
    body = _exactly(fd, header_size + payload_size)
    if body is None:
        return None
    header: Header = marshal.loads(body[:header_size])
    return header, body[header_size:]


def _exactly(fd: int, size: int) -> bytes | None:
    first = os.read(fd, min(size, 1 << 20)) if size else b""
    if len(first) == size:
        return first
    data = bytearray(first)
    while first and len(data) < size:
        first = os.read(fd, min(size - len(data), 1 << 20))
        data += first
    return bytes(data) if len(data) == size else None


def unpack(buffer: bytearray) -> tuple[tuple[Header, bytes] | None, int]:
    """Take the first frame off `buffer`; or (None, how many bytes it needs to hold one)."""
    if len(buffer) < LENGTHS.size:
        return None, LENGTHS.size
    header_size, payload_size = LENGTHS.unpack_from(buffer)
    start = LENGTHS.size + header_size
    end = start + payload_size
    if len(buffer) < end:
        return None, end
    with memoryview(buffer) as view:
        header, payload = json.loads(bytes(view[LENGTHS.size : start])), bytes(view[start:end])
    del buffer[:end]
    return (header, payload), LENGTHS.size
