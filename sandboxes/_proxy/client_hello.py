"""The first message of a TLS client, read for the server's name (RFC 8446, 4.1.2; RFC 6066, 3)."""

from dataclasses import dataclass

from .intake import Intake
from .refused import Refused

HANDSHAKE = b"\x16"
"""The first byte of a TLS connection."""
ACCESS_DENIED = b"\x15\x03\x03\x00\x02\x02\x31"
"""A fatal alert, which a TLS client reports as "access denied"."""
MAX_HELLO = 32 << 10
"""Bytes of records; hellos with post-quantum keys have about 2,000."""
_CLIENT_HELLO = 1
_SERVER_NAME = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class ClientHello:
    """What a client said first."""

    raw: bytes
    """The records as they came."""
    server_name: str | None
    """As it stands in the clear; None when there is none."""


async def read_client_hello(intake: Intake) -> ClientHello:
    """Raises `Refused` when anything but one well-formed ClientHello comes first."""
    raw, message = b"", b""
    while True:
        header = await intake.exactly(5)
        size = int.from_bytes(header[3:], "big")
        if header[:1] != HANDSHAKE or header[1] != 3 or not 0 < size <= 1 << 14:
            raise Refused(400, "the connection does not begin with a TLS ClientHello")
        if len(raw) + len(header) + size > MAX_HELLO:
            raise Refused(400, f"the TLS ClientHello has over {MAX_HELLO} bytes")
        fragment = await intake.exactly(size)
        raw, message = raw + header + fragment, message + fragment
        if message[0] != _CLIENT_HELLO:
            raise Refused(400, "the connection does not begin with a TLS ClientHello")
        missing = 4 + int.from_bytes(message[1:4], "big") - len(message)
        if len(message) >= 4 and missing <= 0:
            break
    if missing < 0:
        raise Refused(400, "a TLS record holds more than the ClientHello")
    return ClientHello(raw=raw, server_name=server_name(message[4:]))


def server_name(body: bytes) -> str | None:
    """The name in the `server_name` extension of a ClientHello's body."""
    hello = _Fields(body)
    hello.take(2 + 32)  # version, random
    for length_bytes in (1, 2, 1):  # session id, cipher suites, compression methods
        hello.vector(length_bytes)
    names: list[str] = []
    extensions = _Fields(hello.vector(2) if hello.is_left() else b"")
    while extensions.is_left():
        kind, data = extensions.take(2), extensions.vector(2)
        if int.from_bytes(kind, "big") == _SERVER_NAME:
            names.append(_only_name(data))
    if hello.is_left() or len(names) > 1:
        raise Refused(400, "the TLS ClientHello is malformed")
    return names[0] if names else None


def _only_name(extension: bytes) -> str:
    outer = _Fields(extension)
    entries = _Fields(outer.vector(2))
    kind, name = entries.take(1), entries.vector(2)
    if kind != b"\0" or entries.is_left() or outer.is_left() or not name.isascii():
        raise Refused(400, "the TLS ClientHello must name one server, by its host name")
    return name.decode("ascii")


class _Fields:
    """Takes fields off the front of a byte string."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, size: int) -> bytes:
        if self._at + size > len(self._data):
            raise Refused(400, "the TLS ClientHello is malformed")
        self._at += size
        return self._data[self._at - size : self._at]

    def vector(self, length_bytes: int) -> bytes:
        """A field behind its length."""
        return self.take(int.from_bytes(self.take(length_bytes), "big"))

    def is_left(self) -> bool:
        return self._at < len(self._data)
