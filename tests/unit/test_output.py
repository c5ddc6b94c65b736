"""What is kept of too long an output."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palaestra.sandboxes._docker.output import HeadTail
from palaestra.sandboxes._inside.pages import Capture


@given(st.lists(st.binary(max_size=50)), st.integers(0, 60))
def test_head_and_tail_are_kept_and_the_middle_is_counted_however_it_arrives(
    pieces: list[bytes], limit: int
) -> None:
    kept = HeadTail(limit)
    for piece in pieces:
        kept.feed(piece)
    whole = b"".join(pieces)
    if len(whole) <= limit:
        assert (kept.value(), kept.omitted) == (whole, 0)
    else:
        head, tail = limit - limit // 2, limit // 2
        assert kept.value() == whole[:head] + whole[len(whole) - tail :]
        assert kept.omitted == len(whole) - limit


def test_looking_at_the_value_in_between_changes_nothing() -> None:
    kept = HeadTail(4)
    for piece in (b"abc", b"def", b"ghi"):
        kept.feed(piece)
        kept.value()
    assert (kept.value(), kept.omitted) == (b"abhi", 5)


def test_a_negative_limit_is_refused() -> None:
    with pytest.raises(ValueError, match="-1"):
        HeadTail(-1)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.binary(min_size=1, max_size=3), st.integers(1, 65_536))), st.integers(0, 200_000)
)
def test_a_capture_keeps_the_same_as_head_and_tail(pieces: list[tuple[bytes, int]], limit: int) -> None:
    kept, capture = HeadTail(limit), Capture(limit)
    reader, writer = os.pipe()
    try:
        os.set_blocking(reader, False)
        for word, size in pieces:
            text = (word * size)[:size]
            assert os.write(writer, text) == size
            kept.feed(text)
            assert capture.read_from(reader) == size
            assert capture.read_from(reader) is None
        os.close(writer)
        assert capture.read_from(reader) == 0
    finally:
        os.close(reader)
    with capture.kept() as found:
        assert (bytes(found), capture.omitted) == (kept.value(), kept.omitted)
    last = kept.value()[-4:]
    assert capture.ends_with_any((b"not there", last), 4)
    assert not capture.ends_with_any((b"not there",), 4)
    capture.close()
