"""Hashes of many rows, and which rows have the same: 12 bytes of each row, and 8 to 16 more while one looks.

The hashes are Python's own, of 64 bits: two different ones of a million rows look alike once in 30 million
datasets.
"""

from array import array
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

CHUNK = 1 << 14
"""Hashes that are looked up at a time."""


class Hashes(NamedTuple):
    """A hash of each row; zero is that of nothing, and no other's."""

    lines: "array[int]"
    """[N] unsigned, of 32 bits, ascending."""
    values: "array[int]"
    """[N] signed, of 64 bits."""


class Repeat(NamedTuple):
    """Two rows with the same hash."""

    line: int
    first: int


class _Hits(NamedTuple):
    """Which of some hashes are known."""

    places: NDArray[np.intp]
    """[H] where they stand."""
    known: NDArray[np.intp]
    """[H] where the same ones stand among the known."""


def repeats(hashes: Hashes) -> Iterator[Repeat]:
    """The rows whose hash an earlier one has, by line.

    >>> list(repeats(Hashes(array("I", [1, 2, 3]), array("q", [7, 8, 7]))))
    [Repeat(line=3, first=1)]
    """
    numbers = np.sort(_numbers(hashes))
    twice = numbers[1:][numbers[1:] == numbers[:-1]]
    del numbers
    return (found for found in _among(np.unique(twice), hashes, hashes) if found.line != found.first)


def common(hashes: Hashes, others: Hashes) -> Iterator[Repeat]:
    """The rows whose hash stands among the others too, by line; `first` is its first line there.

    >>> here, there = array("I", [1, 2]), array("I", [5, 6])
    >>> list(common(Hashes(here, array("q", [7, 8])), Hashes(there, array("q", [8, 8]))))
    [Repeat(line=2, first=5)]
    """
    numbers, known = _numbers(hashes), np.sort(_numbers(others))
    both = [known[np.unique(hits.known)] for hits in _hits(numbers, known)]
    del known
    return _among(np.unique(np.concatenate(both)) if both else numbers[:0], hashes, others)


def _among(values: NDArray[np.int64], hashes: Hashes, firsts: Hashes) -> Iterator[Repeat]:
    """The rows that have one of these hashes, and the line where `firsts` has it first."""
    values = values[values != 0]
    first = np.full(len(values), np.iinfo(np.uint32).max, np.uint32)
    lines = np.frombuffer(firsts.lines or b"", np.uint32)
    for hits in _hits(_numbers(firsts), values):
        np.minimum.at(first, hits.known, lines[hits.places])
    for hits in _hits(_numbers(hashes), values):
        for place, known in zip(hits.places, hits.known, strict=True):
            yield Repeat(hashes.lines[place], int(first[known]))


def _hits(numbers: NDArray[np.int64], known: NDArray[np.int64]) -> Iterator[_Hits]:
    """By place, each with the first that is the same; `known` is in order."""
    for start in range(0, len(numbers), CHUNK) if len(known) else ():
        chunk = numbers[start : start + CHUNK]
        at = np.searchsorted(known, chunk)
        at[at == len(known)] = 0
        places = np.flatnonzero(known[at] == chunk)
        yield _Hits(places + start, at[places])


def _numbers(hashes: Hashes) -> NDArray[np.int64]:
    return np.frombuffer(hashes.values or b"", np.int64)
