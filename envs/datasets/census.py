"""What a rule about a whole dataset has to remember: 20 bytes of each row, or 28, and the kinds of rows."""

from array import array
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic_core import to_json

from .row import Row

MAX_KINDS = 1024
"""Sets of fields that are told apart. In a dataset with more, fields that `Row` does not know are ignored."""


KNOWN = frozenset(Row.model_fields)


class Repeat(NamedTuple):
    """Two rows with the same hash."""

    line: int
    first: int


class Census:
    """The lines of the rows seen, hashes of what they hold, and which fields they have.

    The hashes are Python's own, of 64 bits: two different ones of a million rows look alike once in
    30 million datasets.
    """

    def __init__(self, *, with_prompts: bool = False) -> None:
        self.kinds: dict[frozenset[str], tuple[int, int]] = {}
        """Fields that are there and not null -> (first line, number of rows)."""
        self._lines, self._rows, self._ids = array("I"), array("q"), array("q")
        self.prompts = array("q") if with_prompts else None

    def __len__(self) -> int:
        return len(self._lines)

    def add(self, line: int, row: Row, *, has_nulls: bool = True) -> None:
        """`has_nulls`: some field may be null."""
        prompt = prompt_hash(row)
        self._lines.append(line)
        self._rows.append(row_hash(row, prompt))
        self._ids.append(0 if row.id is None else hash(str(row.id)))
        if self.prompts is not None:
            self.prompts.append(prompt)
        kind = frozenset(row.model_fields_set)
        if has_nulls:
            kind = frozenset(name for name in kind if getattr(row, name) is not None)
        if kind not in self.kinds and len(self.kinds) >= MAX_KINDS:
            kind &= KNOWN
        first, count = self.kinds.get(kind, (line, 0))
        self.kinds[kind] = first, count + 1

    def repeated_rows(self) -> Iterator[Repeat]:
        return self._repeats(self._rows)

    def repeated_ids(self) -> Iterator[Repeat]:
        return self._repeats(self._ids)

    def prompts_also_in(self, other: "Census") -> Iterator[Repeat]:
        """Where the prompt of a row stands in the other dataset too: `first` is its line there."""
        ours, theirs = _hashes(self), _hashes(other)
        order = np.argsort(theirs, kind="stable")
        theirs = theirs[order]
        at = np.searchsorted(theirs, ours)
        at[at == len(theirs)] = 0
        for place in np.flatnonzero(theirs[at] == ours) if len(theirs) else ():
            yield Repeat(self._lines[place], other._lines[order[at[place]]])

    def _repeats(self, hashes: "array[int]") -> Iterator[Repeat]:
        """In the order of the hashes; that of nothing is zero, and does not count."""
        numbers = np.frombuffer(hashes, np.int64)
        if not len(numbers):
            return
        order = np.argsort(numbers, kind="stable").astype(np.uint32)
        numbers = numbers[order]
        is_first = np.concatenate(([True], numbers[1:] != numbers[:-1]))
        firsts = np.maximum.accumulate(np.where(is_first, np.arange(len(numbers), dtype=np.uint32), 0))
        for place in np.flatnonzero(~is_first & (numbers != 0)):
            yield Repeat(self._lines[order[place]], self._lines[order[firsts[place]]])


def prompt_hash(row: Row) -> int:
    """Of the conversation: roles, texts and calls."""
    parts: list[str | bytes] = []
    for message in row.conversation:
        content = message.content
        parts += (message.role, content if isinstance(content, str) else message.text)
        if message.tool_calls:
            parts.append(to_json(message.tool_calls))
    return hash(tuple(parts))


def row_hash(row: Row, prompt: int) -> int:
    """Of the conversation, the tools and the reference; neither of the id nor of metadata."""
    reference = row.reference
    expected = reference if isinstance(reference, str) else to_json(reference)
    return hash((prompt, row.tools_json if row.tools else None, expected))


def _hashes(census: Census) -> NDArray[np.int64]:
    return np.frombuffer(census.prompts or b"", np.int64)
