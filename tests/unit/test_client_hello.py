"""The server's name in a TLS ClientHello, from OpenSSL's hellos and from hostile ones."""

import asyncio
import ssl
from itertools import count

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support import run_async
from tls_hello import client_hello, in_records

from palaestra.sandboxes._proxy.client_hello import (
    MAX_HELLO,
    ClientHello,
    read_client_hello,
    server_name,
)
from palaestra.sandboxes._proxy.intake import Intake
from palaestra.sandboxes._proxy.refused import Refused

HELLO = client_hello("a.example")


def read(*pieces: bytes) -> ClientHello:
    """What is made of bytes that come in these pieces, with an end behind them."""

    async def part() -> ClientHello:
        stream = asyncio.StreamReader()

        async def feed() -> None:
            for piece in pieces:
                stream.feed_data(piece)
                await asyncio.sleep(0)
            stream.feed_eof()

        feeding = asyncio.create_task(feed())
        try:
            return await read_client_hello(Intake(stream))
        finally:
            await feeding

    return run_async(part())


BARE = b"\x03\x03" + bytes(32) + b"\0" + b"\0\x02\x13\x01" + b"\x01\0"
"""A hello's body, up to its extensions."""


def handshake(body: bytes, more: bytes = b"") -> bytes:
    message = b"\x01" + len(body).to_bytes(3, "big") + body + more
    return b"\x16\x03\x01" + len(message).to_bytes(2, "big") + message


def extension(kind: int, data: bytes) -> bytes:
    return kind.to_bytes(2, "big") + len(data).to_bytes(2, "big") + data


def names(*entries: bytes, kind: bytes = b"\0") -> bytes:
    listed = b"".join(kind + len(entry).to_bytes(2, "big") + entry for entry in entries)
    return extension(0, len(listed).to_bytes(2, "big") + listed)


def hello_with(*extensions: bytes) -> bytes:
    return handshake(BARE + block(*extensions))


def block(*extensions: bytes) -> bytes:
    joined = b"".join(extensions)
    return len(joined).to_bytes(2, "big") + joined


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("name", ["a.example", "xn--bcher-kva.example", "a." * 100 + "example", None])
def test_the_name_is_found_and_the_bytes_are_kept(name: str | None, version: ssl.TLSVersion) -> None:
    hello = client_hello(name, max_version=version)
    found = read(hello)
    assert (found.server_name, found.raw) == (name, hello)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 100])
def test_a_hello_in_many_records_and_many_reads_is_the_same(size: int) -> None:
    records = in_records(HELLO, size)
    assert len(records) > len(HELLO)
    found = read(*(records[start : start + 7] for start in range(0, len(records), 7)))
    assert (found.server_name, found.raw) == ("a.example", records)


def test_what_follows_the_hello_stays_in_the_stream() -> None:
    async def part() -> bytes:
        stream = asyncio.StreamReader()
        stream.feed_data(HELLO + b"early")
        intake = Intake(stream)
        await read_client_hello(intake)
        return await intake.some()

    assert run_async(part()) == b"early"


def test_a_hello_with_unknown_and_encrypted_extensions_counts_by_its_open_name() -> None:
    found = read(hello_with(extension(0xFE0D, b"b.example"), names(b"a.example"), extension(0x2A2A, b"")))
    assert found.server_name == "a.example"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x80\x2e\x01\x03\x01" + bytes(44),
        b"\x15" + HELLO[1:],
        b"\x16\x02" + HELLO[2:],
        b"\x16\x03\x01\0\0" + HELLO,
        b"\x16\x03\x01\xff\xff" + HELLO[5:],
        HELLO[:5] + b"\x02" + HELLO[6:],
        HELLO[:40],
        in_records(HELLO, 100)[:105] + b"\x14\x03\x03\0\x01\x01" + in_records(HELLO, 100)[105:],
        handshake(BARE, more=block(names(b"a.example"))),
        handshake(BARE + block(names(b"a.example")) + b"\0"),
        hello_with(names(b"a.example"), names(b"b.example")),
        hello_with(names(b"a.example", b"b.example")),
        hello_with(names(b"a.example", kind=b"\1")),
        hello_with(names(b"a.\xffexample")),
        hello_with(names()),
        hello_with(extension(0, b"")),
        hello_with(names(b"a.example")[:-1]),
        handshake(b"\x03\x03" + bytes(32)),
    ],
    ids=count(),  # the hello is another in each process
)
def test_what_is_no_hello_with_one_name_is_refused(raw: bytes) -> None:
    with pytest.raises(Refused):
        read(raw)


def test_a_hello_without_extensions_has_no_name() -> None:
    assert read(handshake(BARE)).server_name is None


def test_an_endless_hello_is_refused_at_the_limit_and_not_buffered() -> None:
    record = b"\x16\x03\x01\x40\0"
    first = record + b"\x01\xff\xff\xff" + bytes((1 << 14) - 4)
    with pytest.raises(Refused, match=f"over {MAX_HELLO} bytes"):
        read(first, *[record + bytes(1 << 14)] * 4)


@given(st.integers(0, len(HELLO) - 1))
def test_a_truncated_hello_is_refused(size: int) -> None:
    with pytest.raises(Refused):
        read(HELLO[:size])


@given(st.dictionaries(st.integers(0, len(HELLO) - 1), st.integers(0, 255), max_size=8), st.integers(1, 2000))
def test_a_mutated_hello_is_read_or_refused(changes: dict[int, int], size: int) -> None:
    raw = bytearray(HELLO)
    for at, value in changes.items():
        raw[at] = value
    try:
        found = read(in_records(bytes(raw), size))
    except Refused:
        return
    assert found.server_name is None or found.server_name.isascii()


@given(st.binary(max_size=300))
@example(HELLO[9:])
def test_any_body_is_read_or_refused(body: bytes) -> None:
    try:
        name = server_name(body)
    except Refused:
        return
    assert name is None or name.encode() in body
