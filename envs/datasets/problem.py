"""What is wrong with a dataset, so that a person can mend it."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One broken rule, at one place.

    >>> print(Problem(rule="roles", path="a.jsonl", line=3, field="messages[0].role", message="'bot' is ..."))
    a.jsonl:3: messages[0].role: 'bot' is ... (rule roles)
    """

    rule: str
    path: str
    line: int
    """Of a text file, from 1; the number of the row in a table; 0: the file as a whole."""
    field: str
    """Such as `messages[0].role`; "" for the row as a whole."""
    message: str
    """What is there, and the cure."""

    def __str__(self) -> str:
        place = f"{self.path}:{self.line}" if self.line else self.path
        field = f"{self.field}: " if self.field else ""
        return f"{place}: {field}{self.message} (rule {self.rule})"


class DatasetError(ValueError):
    """A dataset cannot be read on: its text is the first problem, with file, line, field and cure."""


def check_columns(names: Sequence[str], where: str) -> None:
    """Raises `DatasetError` where two columns have the same name: a row would keep the last one's cell."""
    for number, name in enumerate(names):
        if name in names[:number]:
            raise DatasetError(f"{where}: two columns are called {name!r}; rename one, or drop it")
