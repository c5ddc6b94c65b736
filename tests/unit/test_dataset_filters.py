"""Which rows a filter drops, and what it says of each."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from datasets_builders import LOOKUP, calls, result, row, user

from palaestra.envs.datasets.filters import (
    Decision,
    Duplicates,
    Filter,
    Language,
    Length,
    Similar,
    decide,
    invalid,
)
from palaestra.envs.datasets.record import Record

STORY = (
    "Natalia sold clips to forty-eight of her friends in April, and then she sold half as many clips in May. "
    "How many clips did Natalia sell altogether in April and May? Show how you come to the number."
)
TEXTS = {
    "en": STORY,
    "de": "Anna hat zwölf Äpfel und gibt ihrem Bruder die Hälfte. Wie viele Äpfel bleiben ihr am Ende noch?",
    "fr": "Anne a douze pommes et elle en donne la moitié à son frère. Combien lui en reste-t-il à la fin ?",
    "zh": "安娜有十二个苹果,她把一半给了她的弟弟。最后她还剩下多少个苹果?请写出计算的过程。",
}


def decisions(filters: Sequence[Filter], *rows: Any) -> list[Decision]:
    lines = [each if isinstance(each, bytes) else json.dumps(each).encode() for each in rows]
    return list(decide([Record(line, data) for line, data in enumerate(lines, 1)], filters))


def reasons(filters: Sequence[Filter], *rows: Any) -> list[str]:
    return [each.reason for each in decisions(filters, *rows)]


def test_without_filters_only_what_is_no_row_is_dropped() -> None:
    kept, dropped = decisions([], row(id="a"), b"{")
    assert (kept.id, kept.reason) == ("a", "")
    assert dropped.id == ""
    assert dropped.reason.startswith("malformed: no JSON")


def test_an_invalid_row_is_dropped_with_the_rule_that_it_breaks() -> None:
    late = row(user(), {"role": "system", "content": "x"}, user())
    assert reasons([invalid], row(), late) == [
        "",
        "invalid: messages[1].role: a system message behind others; move it to the front (rule system_first)",
    ]


def test_of_equal_rows_the_first_is_kept() -> None:
    talk = row(user(), calls("c1"), result("c1"), tools=[LOOKUP])
    other = row(user(), calls("c1", arguments='{"word": "dog"}'), result("c1"), tools=[LOOKUP])
    found = reasons([Duplicates()], row(id="a"), talk, row(id="b", level=2), other, talk, row(user("b")))
    assert [bool(reason) for reason in found] == [False, False, True, False, True, False]
    assert found[2] == "duplicate: an equal row stands before it"


def test_similar_prompts_are_dropped_with_the_id_of_the_first() -> None:
    near = STORY.replace("April", "March").replace("Show how", "Show  HOW")
    far = "A train leaves at noon and arrives at six; how long does it take, if it waits an hour on its way?"
    rows = [row(user(text), id=name) for name, text in {"a": STORY, "b": far, "c": near, "d": STORY}.items()]
    found = reasons([Similar(0.75)], *rows)
    assert found[:2] == ["", ""]
    assert found[2].startswith("similar: 0.") and found[2].endswith("of it stands in a")
    assert found[3] == "similar: 1.00 of it stands in a"
    assert reasons([Similar(0.95)], *rows)[:3] == ["", "", ""]
    with pytest.raises(ValueError, match=r"threshold 1\.0 is not in"):
        Similar(1.0)


def test_a_row_whose_id_was_used_stands_for_those_that_are_like_it() -> None:
    far = "A train leaves at noon and arrives at six; how long does it take, if it waits an hour on its way?"
    rows = [row(user(text), id="a") for text in (STORY, far, far)]
    assert reasons([Similar(0.75)], *rows) == ["", "", "similar: 1.00 of it stands in a"]


def test_the_estimate_of_similarity_is_near_the_truth() -> None:
    """Of 40 pairs of texts with a known share of common words, none is off by much."""
    for share in (0.5, 0.95):
        dropped = 0
        for number in range(40):
            words = [f"word{number:02}x{place:03}" for place in range(200)]
            other = [word if place < 200 * share else f"other{place}" for place, word in enumerate(words)]
            same = Similar(0.8)
            dropped += bool(reasons([same], row(user(" ".join(words))), row(user(" ".join(other))))[1])
        assert dropped == (0 if share == 0.5 else 40)


@pytest.mark.parametrize("wanted", TEXTS)
def test_other_languages_are_dropped_and_what_is_too_short_to_tell_is_kept(wanted: str) -> None:
    rows = [row(user(text)) for text in TEXTS.values()]
    found = reasons([Language([wanted])], *rows, row(user("2 + 2?")))
    assert found == ["" if name == wanted else f"language: {name}" for name in TEXTS] + [""]


def test_a_text_without_a_letter_is_of_no_language_and_is_kept() -> None:
    assert reasons([Language(["de"])], row(user("12345 + 67890 = ? (98 * 76)"))) == [""]


def test_long_prompts_are_dropped_with_their_length() -> None:
    def count(messages: Sequence[Any], tools: Sequence[Any]) -> int:
        if tools:
            raise ValueError("the template knows no tools")
        return len(messages[0].content)

    assert reasons([Length(count, 5)], row(user("12345")), row(user("123456")), row(tools=[LOOKUP])) == [
        "",
        "length: 6 tokens, the limit is 5",
        "length: the template knows no tools",
    ]


def test_the_first_filter_with_a_reason_has_its_say_and_later_ones_do_not_see_the_row() -> None:
    """A row that is dropped anyway does not stand for its duplicates."""
    late = row(user(), {"role": "system", "content": "x"}, user())
    seen: list[str] = []

    def look(row: Any) -> str:
        seen.append(row.id or "")
        return ""

    assert [bool(each) for each in reasons([invalid, look], late | {"id": "a"}, row(id="b"))] == [True, False]
    assert seen == ["b"]
