"""HTTP requests as the proxy reads and rewrites them: the tricks that make two servers see two requests."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import run_async

from palaestra.sandboxes._proxy.intake import Intake
from palaestra.sandboxes._proxy.refused import Refused
from palaestra.sandboxes._proxy.request import (
    Head,
    absolute_locator,
    connect_goal,
    copy_body,
    parse_head,
    rewritten,
)
from palaestra.sandboxes.allow import Endpoint

MAX_HEAD = 4096


def intake_of(raw: bytes) -> Intake:
    stream = asyncio.StreamReader()
    stream.feed_data(raw)
    stream.feed_eof()
    return Intake(stream)


def read(raw: bytes) -> Head:
    async def part() -> Head:
        return parse_head(await intake_of(raw).through(b"\r\n\r\n", MAX_HEAD))

    return run_async(part())


def plain(
    *lines: str, host: str = "Host: a.example", first: str = "POST http://a.example/ HTTP/1.1"
) -> bytes:
    return "\r\n".join([first, *([host] if host else []), *lines, "", ""]).encode("latin-1")


def forwarded(raw: bytes) -> list[str]:
    """The lines of the head that the host gets."""
    head = read(raw)
    text = rewritten(head, absolute_locator(head)).decode("latin-1")
    assert text.endswith("\r\n\r\n")
    return text[:-4].split("\r\n")


def body_of(raw: bytes, length: int | None) -> bytes:
    """What the host gets of a body."""
    sent = bytearray()

    async def send(data: bytes) -> None:
        sent.extend(data)

    async def part() -> None:
        await copy_body(intake_of(raw), length, send)

    run_async(part())
    return bytes(sent)


def test_a_request_becomes_one_for_its_host_alone() -> None:
    lines = forwarded(
        plain(
            "Accept:\t*/* ",
            "Connection: keep-alive, X-Hop",
            "X-Hop: 1",
            "Keep-Alive: timeout=5",
            "Proxy-Connection: keep-alive",
            "Proxy-Authorization: Basic c2VjcmV0",
            "TE: trailers",
            "Upgrade: h2c",
            "HTTP2-Settings: AAMAAABk",
            "Content-Length: 3",
            "X-Name: \xe9",
            first="POST http://A.example:80/a?b=http://c/ HTTP/1.1",
        )
    )
    assert lines == [
        "POST /a?b=http://c/ HTTP/1.1",
        "Host: a.example",
        "Accept: */*",
        "X-Name: \xe9",
        "Content-Length: 3",
        "Connection: close",
    ]


def test_the_framing_of_a_body_can_not_be_declared_hop_by_hop() -> None:
    lines = forwarded(plain("Connection: content-length, host", "Content-Length: 3"))
    assert "Content-Length: 3" in lines and "Host: a.example" in lines
    lines = forwarded(plain("Connection: transfer-encoding", "Transfer-Encoding: Chunked"))
    assert "Transfer-Encoding: chunked" in lines


@pytest.mark.parametrize(
    ("url", "host", "path"),
    [
        ("http://a.example", "a.example", "/"),
        ("http://a.example?q=/", "a.example:80", "/?q=/"),
        ("HTTP://A.EXAMPLE./x", "a.example", "/x"),
        ("http://a.example/@b.example", "a.example", "/@b.example"),
    ],
)
def test_a_url_is_taken_apart(url: str, host: str, path: str) -> None:
    locator = absolute_locator(read(plain(first=f"GET {url} HTTP/1.1", host=f"Host: {host}")))
    assert (locator.goal, locator.path) == (Endpoint(host="a.example", port=80), path)


def test_a_port_that_is_not_80_is_kept_in_the_host_header() -> None:
    first = "GET http://[::1]:8080/ HTTP/1.1"
    assert forwarded(plain(first=first, host="Host: [::1]:8080"))[1] == "Host: [::1]:8080"


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (plain(host=""), 400),
        (plain("Host: a.example"), 400),
        (plain("host: b.example"), 400),
        (plain(host="Host: b.example"), 403),
        (plain(host="Host: a.example:8080"), 403),
        (plain(host="Host: a.example, b.example"), 400),
        (plain(host="Host: a.example@b.example"), 400),
        (plain(host="Host:"), 400),
        (plain(host="Host: \xe4.example"), 400),
        (plain(host="Host : a.example"), 400),
        (plain(host=" Host: a.example"), 400),
        (plain(host="X: 1\r\n Host: a.example"), 400),
        (plain(host="X: 1\r\n\tfolded\r\nHost: a.example"), 400),
        (plain(host="Host: a.example\nX: 1"), 400),
        (plain(host="Host: a.example\rX: 1"), 400),
        (plain(host="Host: a.example\0"), 400),
        (plain("no colon"), 400),
        (plain(": no name"), 400),
        (plain("Content-Length: 1", "Content-Length: 1"), 400),
        (plain("Content-Length: 1, 1"), 400),
        (plain("Content-Length: +1"), 400),
        (plain("Content-Length: 0x1"), 400),
        (plain("Content-Length: -1"), 400),
        (plain("Content-Length: \xb2"), 400),
        (plain("Content-Length:"), 400),
        (plain("Content-Length: 1" + "0" * 18), 400),
        (plain("Content-Length: 1", "Transfer-Encoding: chunked"), 400),
        (plain("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"), 400),
        (plain("Transfer-Encoding: gzip, chunked"), 400),
        (plain("Transfer-Encoding: chunked, identity"), 400),
        (plain("Transfer-Encoding: xchunked"), 400),
        (plain("Transfer-Encoding: \x0bchunked"), 400),
        (plain("Transfer-Encoding: chunked", first="POST http://a.example/ HTTP/1.0"), 400),
        (plain(first="GET / HTTP/1.1"), 400),
        (plain(first="OPTIONS * HTTP/1.1"), 400),
        (plain(first="GET https://a.example/ HTTP/1.1"), 400),
        (plain(first="GET http:a.example/ HTTP/1.1"), 400),
        (plain(first="GET http:///a.example/ HTTP/1.1"), 400),
        (plain(first="GET http://a.example\\@b.example/ HTTP/1.1"), 400),
        (plain(first="GET http://b.example@a.example/ HTTP/1.1"), 400),
        (plain(first="GET http://a.example/#part HTTP/1.1"), 400),
        (plain(first="GET http://a.example:/ HTTP/1.1"), 400),
        (plain(first="GET http://a.example:99999/ HTTP/1.1"), 400),
        (plain(first="GET http://a.example/\xe9 HTTP/1.1"), 400),
        (plain(first="GET  http://a.example/ HTTP/1.1"), 400),
        (plain(first="GET http://a.example/ HTTP/1.1 "), 400),
        (plain(first="GET http://a.example/ HTTP/2.0"), 400),
        (plain(first="GET http://a.example/"), 400),
        (plain(first="G(T http://a.example/ HTTP/1.1"), 400),
        (plain(first="\r\nGET http://a.example/ HTTP/1.1"), 400),
        (b"GET http://a.example/ HTTP/1.1\nHost: a.example\n\n", 400),
        (plain()[:-2], 400),
        (plain("X: " + "x" * MAX_HEAD), 400),
        (b"x" * (MAX_HEAD + 1), 400),
    ],
)
def test_a_request_that_can_be_read_in_two_ways_is_refused(raw: bytes, status: int) -> None:
    with pytest.raises(Refused) as error:
        forwarded(raw)
    assert error.value.status == status


def test_a_bare_line_feed_is_seen_before_the_head_is_whole() -> None:
    async def part() -> None:
        stream = asyncio.StreamReader()
        stream.feed_data(b"GET http://a.example/ HTTP/1.1\n")
        async with asyncio.timeout(5):
            await Intake(stream).through(b"\r\n\r\n", MAX_HEAD)

    with pytest.raises(Refused, match="LF alone"):
        run_async(part())


@pytest.mark.parametrize("split", range(1, 12))
def test_a_line_end_that_comes_in_two_reads_is_whole(split: int) -> None:
    raw = b"abcd\r\n\r\nrest"

    async def part() -> bytes:
        stream = asyncio.StreamReader()
        intake = Intake(stream)
        stream.feed_data(raw[:split])
        reading = asyncio.create_task(intake.through(b"\r\n\r\n", 100))
        await asyncio.sleep(0)
        stream.feed_data(raw[split:])
        return await reading

    assert run_async(part()) == b"abcd\r\n\r\n"


@pytest.mark.parametrize("hosts", [[], ["a.example"], ["A.example.:443"]])
def test_connect_goes_where_it_says(hosts: list[str]) -> None:
    lines = [f"Host: {host}" for host in hosts]
    head = read(plain(*lines, first="CONNECT a.example:443 HTTP/1.1", host=""))
    assert connect_goal(head) == Endpoint(host="a.example", port=443)


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (plain(first="CONNECT a.example HTTP/1.1", host=""), 400),
        (plain(first="CONNECT http://a.example:443 HTTP/1.1", host=""), 400),
        (plain(first="CONNECT a.example:443/ HTTP/1.1", host=""), 400),
        (plain(first="CONNECT b.example:443 HTTP/1.1"), 403),
        (plain(first="CONNECT a.example:443 HTTP/1.1", host="Host: a.example:80"), 403),
        (plain("Host: a.example", first="CONNECT a.example:443 HTTP/1.1"), 403),
        (plain("Content-Length: 5", first="CONNECT a.example:443 HTTP/1.1"), 400),
        (plain("Transfer-Encoding: chunked", first="CONNECT a.example:443 HTTP/1.1"), 400),
    ],
)
def test_a_connect_that_says_two_things_is_refused(raw: bytes, status: int) -> None:
    with pytest.raises(Refused) as error:
        connect_goal(read(raw))
    assert error.value.status == status


def test_a_body_of_a_length_ends_there() -> None:
    assert body_of(b"12345GET http://b.example/ HTTP/1.1", 5) == b"12345"
    assert body_of(b"GET http://b.example/ HTTP/1.1", 0) == b""


def test_a_body_in_chunks_is_framed_anew_and_ends_with_its_last_chunk() -> None:
    raw = b"005;name=value\r\n12345\r\nA\r\n0123456789\r\n0;x\r\n\r\nGET http://b.example/ HTTP/1.1"
    assert body_of(raw, None) == b"5\r\n12345\r\na\r\n0123456789\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    "raw",
    [
        b"5\r\n1234\r\n0\r\n\r\n",
        b"5\r\n123456\r\n0\r\n\r\n",
        b"5\n12345\r\n0\r\n\r\n",
        b"5\r\n12345\n0\r\n\r\n",
        b"5 \r\n12345\r\n0\r\n\r\n",
        b"0x5\r\n12345\r\n0\r\n\r\n",
        b"-5\r\n12345\r\n0\r\n\r\n",
        b"\r\n12345\r\n0\r\n\r\n",
        b"5;\r\r\n12345\r\n0\r\n\r\n",
        b"000000005\r\n12345\r\n0\r\n\r\n",
        b"5;" + b"x" * 300 + b"\r\n12345\r\n0\r\n\r\n",
        b"0\r\nX-Trailer: 1\r\n\r\n",
        b"5\r\n12345\r\n",
        b"5\r\n123",
    ],
)
def test_chunks_that_can_be_read_in_two_ways_are_refused(raw: bytes) -> None:
    with pytest.raises(Refused):
        body_of(raw, None)


def test_a_body_that_breaks_off_is_refused() -> None:
    with pytest.raises(Refused):
        body_of(b"1234", 5)


@given(st.binary(max_size=200))
def test_any_head_is_read_or_refused(raw: bytes) -> None:
    for whole in (raw, raw + b"\r\n\r\n", b"GET http://a.example/ HTTP/1.1\r\n" + raw + b"\r\n\r\n"):
        try:
            head = read(whole)
            connect_goal(head) if head.method == "CONNECT" else rewritten(head, absolute_locator(head))
        except Refused as refused:
            assert refused.reason.isprintable()


@given(st.lists(st.binary(min_size=1, max_size=50)), st.binary(max_size=20))
def test_chunks_carry_any_bytes(pieces: list[bytes], rest: bytes) -> None:
    framed = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    assert body_of(framed + rest, None) == framed
