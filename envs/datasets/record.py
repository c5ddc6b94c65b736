"""What every reader yields."""

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol


class Record(NamedTuple):
    """One row that nobody has looked at yet."""

    line: int
    """Of a text file, from 1; the number of the row in a table."""
    data: bytes
    """JSON text, or what should be."""
    path: str = ""
    """Of its file, where a source has several."""


class Source(Protocol):
    """A dataset that is read from the front, as often as one likes, a row at a time."""

    @property
    def size(self) -> int | None:
        """Of all of it, in the unit of `position`; None: nobody knows."""
        ...

    @property
    def position(self) -> Callable[[], int]:
        """How far the reading is."""
        ...

    def __iter__(self) -> Iterator[Record]: ...
