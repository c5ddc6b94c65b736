"""Frames between the driver and a sandbox, cut anywhere: both ends, without a sandbox."""

import asyncio
import fcntl
import os
import socket
from collections.abc import Callable
from itertools import cycle, pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import run_async

from palaestra.sandboxes._driver.calls import Outcome, Receiver, Streams
from palaestra.sandboxes._driver.link import MAX_HEAD, Link
from palaestra.sandboxes._inside.pages import CHUNK, Capture, Pages
from palaestra.sandboxes._inside.wire import LENGTHS, DriverGone, Inbox, Outbox, Text, request
from palaestra.sandboxes.docker import Attached
from palaestra.sandboxes.errors import SandboxLost

HEADS = st.dictionaries(
    st.text(max_size=5),
    st.none() | st.booleans() | st.integers(-1, 1 << 40) | st.floats(allow_nan=False) | st.text(),
)
REQUESTS = st.lists(st.tuples(st.integers(0, 2**32 - 1), HEADS, st.binary(max_size=200)), max_size=4)
CUTS = st.lists(st.integers(0, 1 << 10), max_size=6)


def pieces(stream: bytes, cuts: list[int]) -> list[bytes]:
    """`stream`, cut at these places as far as it has them."""
    places = [0, *sorted({cut for cut in cuts if cut < len(stream)}), len(stream)]
    return [stream[start:end] for start, end in pairwise(places)]


@given(REQUESTS, CUTS)
def test_requests_arrive_as_they_were_sent_at_any_cut(
    sent: list[tuple[int, dict[str, Any], bytes]], cuts: list[int]
) -> None:
    stream = b"".join(request(channel, head, len(payload)) + payload for channel, head, payload in sent)
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    inbox = Inbox(reader)
    found: list[tuple[int, dict[str, Any], bytes]] = []
    for piece in pieces(stream, cuts):
        os.write(writer, piece)
        while (taken := inbox.take()) is not None:
            with taken.payload.view() as view:
                found.append((taken.channel, taken.head, bytes(view)))
            taken.payload.close()
    os.close(writer)
    with pytest.raises(DriverGone):
        inbox.take()
    os.close(reader)
    assert found == sent


@given(HEADS, st.binary(min_size=1, max_size=50), st.data())
def test_a_request_that_ends_in_the_middle_is_a_driver_that_is_gone(
    head: dict[str, Any], payload: bytes, data: st.DataObject
) -> None:
    stream = request(1, head, len(payload)) + payload
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.write(writer, stream[: data.draw(st.integers(0, len(stream) - 1))])
    inbox = Inbox(reader)
    assert inbox.take() is None
    os.close(writer)
    with pytest.raises(DriverGone):
        inbox.take()
    os.close(reader)


@pytest.mark.parametrize("cut", [0, 5, 20, 60])
def test_a_driver_that_dies_with_replies_unread_is_gone_at_any_cut(cut: int) -> None:
    stream = request(1, {"op": "write"}, 50) + bytes(50)
    ours, theirs = socket.socketpair()
    with ours:
        ours.setblocking(False)
        with theirs:
            theirs.send(stream[:cut])
            ours.send(b"a reply")
        inbox = Inbox(ours.fileno())  # its next read is a reset, and not the end of the stream
        with pytest.raises(DriverGone):
            inbox.take()


def in_pages(content: bytes) -> Pages:
    pages = Pages(len(content))
    with pages.view() as view:
        view[:] = content
    return pages


def captured(content: bytes) -> Capture:
    capture = Capture(len(content))
    file = os.memfd_create("content")  # a pipe would take only so much
    os.write(file, content)
    os.lseek(file, 0, os.SEEK_SET)
    while capture.read_from(file):
        pass
    os.close(file)
    return capture


PAYLOADS: list[Callable[[bytes], Any]] = [Text, in_pages, captured]
CHANNELS = st.integers(0, 2**32 - 1)
REPLIES = st.lists(
    st.tuples(
        CHANNELS, st.binary(max_size=30), st.sampled_from(PAYLOADS), st.binary(min_size=1, max_size=500)
    ),
    max_size=5,
)


@settings(deadline=None)
@given(REPLIES, st.lists(st.integers(50, 4096), min_size=1, max_size=8))
def test_replies_leave_whole_and_in_order_however_slowly_they_are_taken(
    replies: list[tuple[int, bytes, Callable[[bytes], Any], bytes]], reads: list[int]
) -> None:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)  # so that few replies go at once
    for fd in (reader, writer):
        os.set_blocking(fd, False)
    outbox = Outbox(writer)
    expected = bytearray()
    for channel, head, make, text in replies:
        payload = text * 40
        outbox.put(channel, head, make(payload))
        expected += LENGTHS.pack(channel, len(head), len(payload)) + head + payload
        outbox.put(channel, head)
        expected += LENGTHS.pack(channel, len(head), 0) + head
    got, sizes = bytearray(), cycle(reads)
    while len(got) < len(expected):
        got += os.read(reader, next(sizes))  # it is never empty before the end
        outbox.flush()
    assert got == expected and outbox.is_empty
    os.close(reader)
    with pytest.raises(DriverGone):
        outbox.put(1, b"nobody is there")
    os.close(writer)


Reply = tuple[int, list[bytes], bytes]


def through_a_link(stream: bytes, cuts: list[int], unwrap: Any = None) -> tuple[list[Reply], int]:
    """The replies that a driver takes from `stream`, and how often it was told of its end."""
    found: list[Reply] = []
    num_ends = 0

    async def main() -> None:
        ended = asyncio.Event()

        def on_reply(channel: int, words: list[bytes], payload: bytes) -> None:
            found.append((channel, words, payload))

        def on_end() -> None:
            nonlocal num_ends
            num_ends += 1
            ended.set()

        ours, theirs = socket.socketpair()
        link = Link(ours, on_reply, on_end, unwrap)
        with theirs:
            for piece in pieces(stream, cuts):
                theirs.sendall(piece)
                for _ in range(3):
                    await turn()
        async with asyncio.timeout(10):
            await ended.wait()
        link.send(1, {}, b"to nobody")
        link.close()

    run_async(main())
    return found, num_ends


WORDS = st.lists(
    st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=9),
    min_size=1,
    max_size=4,
)
FRAMES = st.lists(st.tuples(st.integers(0, 2**32 - 1), WORDS, st.binary(max_size=300)), max_size=4)


def frames(replies: list[tuple[int, list[str], bytes]]) -> tuple[bytes, list[Reply]]:
    stream = b""
    expected: list[Reply] = []
    for channel, words, payload in replies:
        head = " ".join(words).encode()
        stream += LENGTHS.pack(channel, len(head), len(payload)) + head + payload
        expected.append((channel, head.split(b" "), payload))
    return stream, expected


@settings(deadline=None)
@given(FRAMES, CUTS)
def test_a_link_takes_replies_at_any_cut(
    replies: list[tuple[int, list[str], bytes]], cuts: list[int]
) -> None:
    stream, expected = frames(replies)
    assert through_a_link(stream, cuts) == (expected, 1)


@settings(deadline=None)
@given(FRAMES, CUTS, CUTS, st.binary(max_size=20))
def test_a_container_s_stream_is_taken_out_of_docker_s_frames(
    replies: list[tuple[int, list[str], bytes]], cuts: list[int], wraps: list[int], said: bytes
) -> None:
    stream, expected = frames(replies)
    attached = Attached()
    wrapped = b"".join(
        b"\1\0\0\0" + len(part).to_bytes(4, "big") + part + b"\2\0\0\0" + len(said).to_bytes(4, "big") + said
        for part in pieces(stream, wraps)
    )
    assert through_a_link(wrapped, cuts, attached) == (expected, 1)
    assert attached.stderr == said * len(pieces(stream, wraps))


def test_a_head_that_is_too_long_ends_the_link() -> None:
    for size in (MAX_HEAD, MAX_HEAD + 1):
        found, ends = through_a_link(LENGTHS.pack(1, size, 0) + b"x" * size, [])
        assert (len(found), ends) == (int(size == MAX_HEAD), 1)


NONSENSE = st.sampled_from(
    [b"", b"data", b"data 1", b"out", b"exit", b"exit \xff", b"ok"]
    + [b"exit %s 0 0 0 0 0" % words for words in (b"ok 0", b"fine 0", b"ok x", b"ok -", b"ok 0 0")]
)


@settings(deadline=None)
@given(st.lists(NONSENSE | st.binary(max_size=20), max_size=4), st.binary(max_size=30), st.booleans())
def test_whatever_comes_out_of_a_sandbox_is_an_answer_or_the_end(
    heads: list[bytes], rest: bytes, is_job: bool
) -> None:
    stream = b"".join(LENGTHS.pack(1, len(head), 3) + head + b"abc" for head in heads) + rest

    async def main() -> None:
        loop = asyncio.get_running_loop()
        raised: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _, context: raised.append(context))
        ours, theirs = socket.socketpair()
        receivers: dict[int, Receiver] = {1: Streams(lambda _: None) if is_job else Outcome()}
        ended = asyncio.Event()

        def on_reply(channel: int, words: list[bytes], payload: bytes) -> None:
            if channel in receivers and receivers[channel].take(words, payload):
                del receivers[channel]

        Link(ours, on_reply, ended.set)
        with theirs:
            theirs.sendall(stream)
        async with asyncio.timeout(10):
            await ended.wait()
        assert not raised
        for receiver in receivers.values():
            receiver.lose(SandboxLost("gone"))

    run_async(main())


async def turn() -> None:
    """Let the event loop do what it can do now."""
    await asyncio.sleep(0)


def test_requests_larger_than_a_socket_go_out_as_they_are_taken() -> None:
    parts = [os.urandom(3 << 20), b"", os.urandom(CHUNK)]

    async def main() -> None:
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        link = Link(ours, lambda channel, words, payload: None, lambda: None)
        with theirs:
            for channel, part in enumerate(parts):
                link.send(channel, {"n": channel}, part, b"tail")
            inbox = Inbox(theirs.fileno())
            for channel, part in enumerate(parts):
                while (taken := inbox.take()) is None:
                    await turn()
                assert (taken.channel, taken.head) == (channel, {"n": channel})
                with taken.payload.view() as view:
                    assert view == part + b"tail"
                taken.payload.close()
            link.end_requests()
            with pytest.raises(DriverGone):
                inbox.take()
        link.close()

    run_async(main())
