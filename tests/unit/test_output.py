"""What is kept of too long an output."""

import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palaestra.sandboxes._driver.output import HeadTail
from palaestra.sandboxes._inside.pages import CHUNK, Capture, Pages, waiting


def head_and_tail(whole: bytes, limit: int) -> tuple[bytes, int]:
    """What is kept of `whole`, and how much is not."""
    if len(whole) <= limit:
        return whole, 0
    tail = limit // 2
    return whole[: limit - tail] + whole[len(whole) - tail :], len(whole) - limit


@given(st.lists(st.binary(max_size=50)), st.integers(0, 60))
def test_head_and_tail_are_kept_and_the_middle_is_counted_however_it_arrives(
    pieces: list[bytes], limit: int
) -> None:
    kept = HeadTail(limit)
    for piece in pieces:
        kept.feed(piece)
    assert (kept.value(), kept.omitted) == head_and_tail(b"".join(pieces), limit)


def test_looking_at_the_value_in_between_changes_nothing() -> None:
    kept = HeadTail(4)
    for piece in (b"abc", b"def", b"ghi"):
        kept.feed(piece)
        kept.value()
    assert (kept.value(), kept.omitted) == (b"abhi", 5)


def test_a_negative_limit_is_refused() -> None:
    with pytest.raises(ValueError, match="-1"):
        HeadTail(-1)


@contextmanager
def pipe() -> Generator[tuple[int, int], None, None]:
    """A reader that does not block, and a writer."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    try:
        yield reader, writer
    finally:
        os.close(reader)
        os.close(writer)


def found(capture: Capture) -> tuple[bytes, int]:
    with capture.view() as view:
        return bytes(view), capture.omitted


# Up to a pipe's capacity at a time, and sums around every size at which a capture grows or cuts.
_PIECES = st.lists(st.tuples(st.binary(min_size=1, max_size=3), st.integers(1, CHUNK)), max_size=12)


@settings(max_examples=80, deadline=None)
@given(_PIECES, st.integers(0, 60) | st.integers(0, 5 * CHUNK), st.integers(0, 12))
def test_a_capture_keeps_head_and_tail_of_a_pipe(
    pieces: list[tuple[bytes, int]], limit: int, looks_after: int
) -> None:
    capture, whole = Capture(limit), b""
    with pipe() as (reader, writer):
        for number, (word, size) in enumerate(pieces):
            piece = (word * size)[:size]
            assert os.write(writer, piece) == size == waiting(reader)
            assert capture.read_from(reader) == size
            assert capture.read_from(reader) is None
            whole += piece
            if number == looks_after:
                assert found(capture) == head_and_tail(whole, limit)
    kept = head_and_tail(whole, limit)
    assert found(capture) == kept
    last = kept[0][-4:]
    assert capture.ends_with_any((b"not there", last), 4)
    assert not capture.ends_with_any((b"not there",), 4)
    # Within all that was kept; bytes of zero beyond its end are not part of it.
    assert capture.ends_with_any((last + b"?",), len(kept[0])) == (last + b"?" in kept[0])
    assert not capture.ends_with_any((last + b"\0",), len(kept[0])) or last + b"\0" in kept[0]
    capture.close()


def test_the_end_of_a_pipe_is_told_from_nothing_yet() -> None:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    capture, pages = Capture(9), Pages(9)
    try:
        assert capture.read_from(reader) is None and pages.read_from(reader) is None
        os.close(writer)
        assert capture.read_from(reader) == 0 and pages.read_from(reader) == 0
    finally:
        os.close(reader)
    pages.cut()
    assert (pages.size, bytes(pages.view())) == (0, b"")
    capture.close()


FORKING = """
import os
from palaestra.sandboxes._inside.pages import Pages

reader, writer = os.pipe()
os.write(writer, b"passing through")
pages = Pages(99)
pages.read_from(reader)
pages.cut()
for is_shown in (False, True, False):
    pages.show_to_forks(is_shown)
    if os.fork() == 0:
        os.write(1, bytes(pages.view()) + b"|")
        os._exit(0)
    os.wait()
os.write(1, bytes(pages.view()))
"""


def test_a_fork_finds_only_pages_that_are_shown_to_it() -> None:
    # In a process of its own: a fork of this one would carry the threads of other tests.
    done = subprocess.run([sys.executable, "-P", "-c", FORKING], capture_output=True, check=True)
    text = b"passing through"
    assert done.stdout.split(b"|") == [bytes(len(text)), text, bytes(len(text)), text]
