"""What is kept of too long an output."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palaestra.sandboxes.output import HeadTail


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
