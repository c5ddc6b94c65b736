"""One HTTP/1 request, read so strictly that no server can read another one in it (RFC 9112)."""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from ..allow import HTTP_PORT, Endpoint
from .intake import Intake
from .refused import Refused

Send = Callable[[bytes], Awaitable[None]]

MAX_CHUNK_LINE = 256
"""Bytes of the line in front of a chunk."""

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_REQUEST_LINE = re.compile(rf"({_TOKEN}) ([\x21-\x7e]+) (HTTP/1\.[01])")
_NAME = re.compile(_TOKEN)
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_URL = re.compile(r"http://([^/?#@]+)(/[^#]*|\?[^#]*)?", re.IGNORECASE)
_CHUNK_LINE = re.compile(rb"([0-9a-fA-F]{1,8})(?:;[\t\x20-\x7e]*)?\r\n")
_LENGTH = re.compile(r"[0-9]{1,18}")

_NOT_PASSED_ON = {
    *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection"),
    *("te", "trailer", "transfer-encoding", "upgrade", "http2-settings", "host", "content-length"),
}
"""Hop by hop, for us alone, or written anew."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """A header line, in latin-1."""

    name: str
    """As it was written."""
    value: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """The head of a request.

    >>> parse_head(b"GET http://example.org/a HTTP/1.1\\r\\nHost: example.org\\r\\n\\r\\n").target
    'http://example.org/a'
    """

    method: str
    target: str
    version: str
    """HTTP/1.0 or HTTP/1.1."""
    headers: tuple[Header, ...]
    body_length: int | None
    """Bytes of the body; None when it comes in chunks."""

    def values(self, name: str) -> list[str]:
        """Of every header with that name, which is given in lower case."""
        return _values(self.headers, name)


def parse_head(raw: bytes) -> Head:
    """Raises `Refused` for anything that a lenient server could take in two ways."""
    first, *lines = raw.removesuffix(b"\r\n\r\n").decode("latin-1").split("\r\n")
    request = _REQUEST_LINE.fullmatch(first)
    if request is None:
        raise Refused(400, f"{first!a:.100} is not the first line of an HTTP/1 request")
    method, target, version = request.groups()
    headers = tuple(map(_parse_header, lines))
    length = _body_length(version, headers)
    return Head(method=method, target=target, version=version, headers=headers, body_length=length)


def _parse_header(line: str) -> Header:
    name, colon, value = line.partition(":")
    if not colon or not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
        raise Refused(400, f"{line!a:.100} is not a header of the form 'Name: value' on one line")
    return Header(name=name, value=value.strip(" \t"))


def _body_length(version: str, headers: tuple[Header, ...]) -> int | None:
    lengths, codings = _values(headers, "content-length"), _values(headers, "transfer-encoding")
    if codings:
        if lengths or version != "HTTP/1.1" or [coding.lower() for coding in codings] != ["chunked"]:
            raise Refused(400, "Transfer-Encoding must be 'chunked', in HTTP/1.1, without Content-Length")
        return None
    if len(lengths) > 1 or not all(map(_LENGTH.fullmatch, lengths)):
        raise Refused(400, f"Content-Length must be one number, got {lengths!a:.100}")
    return int(lengths[0]) if lengths else 0


def _values(headers: tuple[Header, ...], name: str) -> list[str]:
    return [header.value for header in headers if header.name.lower() == name]


def connect_goal(head: Head) -> Endpoint:
    """Where a CONNECT wants to go."""
    goal = _endpoint(head.target)
    hosts = head.values("host")
    if len(hosts) > 1 or any(_endpoint(host, goal.port) != goal for host in hosts):
        raise Refused(
            403, f"CONNECT asks for {goal}, but Host for {', '.join(hosts)!a:.100}; both must be one"
        )
    if head.body_length != 0:
        raise Refused(400, "CONNECT has no body")
    return goal


@dataclass(frozen=True, kw_only=True, slots=True)
class Locator:
    """What a plain request asks for."""

    goal: Endpoint
    path: str
    """With its query."""


def absolute_locator(head: Head) -> Locator:
    """Of a request to a proxy, `GET http://host/path`, whose Host header says the same."""
    url = _URL.fullmatch(head.target)
    if url is None:
        raise Refused(
            400,
            f"{head.target!r:.100} is not a URL that starts with http://; this is a proxy, which takes "
            "'GET http://host/path' for HTTP and 'CONNECT host:443' for HTTPS",
        )
    goal = _endpoint(url[1], HTTP_PORT)
    require_host(head, goal)
    path = url[2] or "/"
    return Locator(goal=goal, path=path if path.startswith("/") else f"/{path}")


def require_host(head: Head, goal: Endpoint) -> None:
    """Raises `Refused` unless the one Host header names `goal`."""
    hosts = head.values("host")
    if len(hosts) != 1:
        raise Refused(400, f"a request needs exactly one Host header, got {len(hosts)}")
    if _endpoint(hosts[0], HTTP_PORT) != goal:
        raise Refused(403, f"the request is for {goal}, but its Host is {hosts[0]!a:.100}; both must be one")


def _endpoint(text: str, default_port: int | None = None) -> Endpoint:
    if not text.isascii():
        raise Refused(400, f"a host is written in ASCII, got {text!a:.100}")
    try:
        return Endpoint.parse(text, default_port=default_port)
    except ValueError as error:
        raise Refused(400, str(error)) from None


def rewritten(head: Head, locator: Locator) -> bytes:
    """The head that the server gets: for this server, this one request, and nothing that was meant for us."""
    dropped = {name.strip().lower() for value in head.values("connection") for name in value.split(",")}
    dropped |= _NOT_PASSED_ON
    host = str(locator.goal).removesuffix(f":{HTTP_PORT}")
    lines = [f"{head.method} {locator.path} {head.version}", f"Host: {host}"]
    lines += [f"{h.name}: {h.value}" for h in head.headers if h.name.lower() not in dropped]
    if head.body_length is None:
        lines.append("Transfer-Encoding: chunked")
    elif head.values("content-length"):
        lines.append(f"Content-Length: {head.body_length}")
    lines.append("Connection: close")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


async def copy_body(intake: Intake, length: int | None, send: Send) -> None:
    """The body and not a byte more; `length` is `Head.body_length`."""
    if length is not None:
        await _copy(intake, length, send)
        return
    while size := await _chunk_size(intake):
        await send(b"%x\r\n" % size)
        await _copy(intake, size, send)
        await _end_line(intake)
        await send(b"\r\n")
    await _end_line(intake)
    await send(b"0\r\n\r\n")


async def _chunk_size(intake: Intake) -> int:
    line = _CHUNK_LINE.fullmatch(await intake.through(b"\r\n", MAX_CHUNK_LINE))
    if line is None:
        raise Refused(400, "a chunk of the body has no size in front")
    return int(line[1], 16)


async def _end_line(intake: Intake) -> None:
    if await intake.exactly(2) != b"\r\n":
        raise Refused(400, "a chunk of the body is longer than it says, or trailers follow the last one")


async def _copy(intake: Intake, size: int, send: Send) -> None:
    while size:
        data = await intake.some(size)
        if not data:
            raise Refused(400, "the connection ended in the middle of a body")
        await send(data)
        size -= len(data)
