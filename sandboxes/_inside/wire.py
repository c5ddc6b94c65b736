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

from .pages import Pages

LENGTHS = struct.Struct("!II")
Header = dict[str, Any]
"""What marshal or JSON carries; each side reads the fields that it knows by name."""


def request(header: Header, *payload: bytes) -> bytes:
    text = marshal.dumps(header)
    return b"".join((LENGTHS.pack(len(text), sum(map(len, payload))), text, *payload))


def send(fd: int, header: Header, *payload: memoryview) -> None:
    """Reply to the driver."""
    send_text(fd, json.dumps(header).encode(), *payload)


def send_text(fd: int, text: bytes, *payload: memoryview) -> None:
    """Reply with a header that is JSON already."""
    head = LENGTHS.pack(len(text), sum(map(len, payload))) + text
    rest = [memoryview(head), *payload]
    while rest:
        sent = os.writev(fd, rest)
        while rest and sent >= len(rest[0]):
            sent -= len(rest.pop(0))
        if sent:
            rest[0] = rest[0][sent:]


def receive(fd: int) -> tuple[Header, Pages] | None:
    """The next request, or None when the driver is gone. Its payload is the caller's to close."""
    head = _exactly(fd, LENGTHS.size)
    if head is None:
        return None
    header_size, payload_size = LENGTHS.unpack(head)
    text = _exactly(fd, header_size)
    payload = Pages(payload_size)
    if text is None or payload.fill_from(fd) < payload_size:
        return None
    header: Header = marshal.loads(text)
    return header, payload


def _exactly(fd: int, size: int) -> bytes | None:
    data = os.read(fd, size)
    while data and len(data) < size:
        more = os.read(fd, size - len(data))
        data = data + more if more else b""
    return data or None


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
