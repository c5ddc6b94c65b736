"""Rows that are not worth training on: each filter says why it drops one, or nothing.

A filter is called with one row after the other, in the order of the file; of rows that are alike it keeps the
first.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from ..text_language import language_detector
from .census import prompt_hash, row_hash
from .problem import Problem
from .reading import parse_row
from .record import Record
from .row import Row
from .rules import Count, count_tokens, problems_of
from .seen import Seen
from .shape import Malformed
from .tasks import content_id

Filter = Callable[[Row], str]
"""The reason to drop the row, "" to keep it."""

ENOUGH = 20
"""Characters from which the language of a text can be guessed."""
MAX_SIMILAR = 0.95
"""What differs in less, 128 hashes do not tell from what is equal."""
WEIGHTS = (0.2, 0.8)
"""Candidates are compared once more, so one too many costs time alone, and one too few a duplicate."""
SHINGLE = 5
"""Characters of the pieces that texts are compared by."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What became of a row."""

    record: Record
    id: str
    """The row's, or the one that `iter_tasks` makes of its content; "" where it cannot be read."""
    reason: str
    """Why it was dropped; "" where it was kept."""


def decide(source: Iterable[Record], filters: Sequence[Filter]) -> Iterator[Decision]:
    """Every row, with the first reason that a filter has. Malformed rows are dropped: they have no content
    that a filter could look at."""
    for record in source:
        try:
            row = parse_row(record.data)
        except Malformed as error:
            rule, field, message = error.found[0]
            yield Decision(record=record, id="", reason=f"malformed: {_said(rule, field, message)}")
            continue
        name = content_id(row) if row.id is None else str(row.id)
        reason = next(filter(None, (each(row) for each in filters)), "")
        yield Decision(record=record, id=name, reason=reason)


def invalid(row: Row) -> str:
    """Breaks one of the rules that look at one row."""
    found = problems_of(row)
    return f"invalid: {_said(*found[0])}" if found else ""


class Duplicates:
    """The same conversation, tools and reference as an earlier row, letter by letter. 8 bytes a row."""

    def __init__(self) -> None:
        self._seen = Seen()

    def __call__(self, row: Row) -> str:
        is_new = self._seen.add(row_hash(row, prompt_hash(row)))
        return "" if is_new else "duplicate: an equal row stands before it"


class Similar:
    """What the users of a row say is nearly what they say in an earlier one: at least `threshold` of all
    five-letter pieces are common to both, as MinHash estimates it. Some 3 kB a row.

    Prompts that differ in a number alone are similar too. Needs `palaestra[data]`.
    """

    def __init__(self, threshold: float = 0.9) -> None:
        if not 0 < threshold <= MAX_SIMILAR:
            raise ValueError(
                f"threshold {threshold} is not in (0, {MAX_SIMILAR}]; Duplicates finds equal rows"
            )
        self._library: Any = import_module("datasketch")
        self._index: Any = self._library.MinHashLSH(threshold=threshold, weights=WEIGHTS)
        self._sketches: list[Any] = []
        self._names: list[str] = []
        self._threshold = threshold

    def __call__(self, row: Row) -> str:
        sketch = self._library.MinHash()
        sketch.update_batch(_pieces(user_text(row)))
        for number in sorted(self._index.query(sketch)):
            # The index returns candidates; some are below the threshold.
            similarity = sketch.jaccard(self._sketches[number])
            if similarity >= self._threshold:
                return f"similar: {similarity:.2f} of it stands in {self._names[number]}"
        self._index.insert(len(self._sketches), sketch)
        self._sketches.append(sketch)
        self._names.append(f"{content_id(row) if row.id is None else row.id}")
        return ""


class Language:
    """What the users say is in none of these languages, as ISO 639-1 names them. It is a guess, a bad one of
    formulas and code; what is too short for one, or without a letter, is kept. Needs `palaestra[data]`."""

    def __init__(self, wanted: Collection[str]) -> None:
        self._wanted = frozenset(wanted)
        self._detect = language_detector()

    def __call__(self, row: Row) -> str:
        text = user_text(row)
        if len(text) < ENOUGH:
            return ""
        found = self._detect(text)
        return "" if found is None or found in self._wanted else f"language: {found}"


class Length:
    """More tokens than `max_tokens` under the model's chat template."""

    def __init__(self, count: Count, max_tokens: int) -> None:
        self._count, self._max = count, max_tokens

    def __call__(self, row: Row) -> str:
        try:
            tokens = count_tokens(row, self._count)
        except ValueError as error:
            return f"length: {error}"
        return f"length: {tokens} tokens, the limit is {self._max}" if tokens > self._max else ""


def user_text(row: Row) -> str:
    """What the users of a conversation say."""
    return "\n".join(message.text for message in row.conversation if message.role == "user")


def _pieces(text: str) -> list[bytes]:
    """All runs of SHINGLE characters, without capitals and runs of white space."""
    text = " ".join(text.casefold().split())
    last = max(1, len(text) - SHINGLE + 1)
    return [piece.encode() for piece in {text[start : start + SHINGLE] for start in range(last)}]


def _said(rule: str, field: str, message: str) -> str:
    return str(Problem(rule=rule, path="", line=0, field=field, message=message)).removeprefix(": ")
