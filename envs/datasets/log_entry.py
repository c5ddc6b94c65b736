"""The parts of a log entry, and where one of them is not what it should be."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from .json_kinds import is_list, is_object


class Unreadable(ValueError):
    """A log entry that is no conversation of texts and tool calls; the text says why, `field` where."""

    def __init__(self, why: str, field: str = "") -> None:
        super().__init__(why)
        self.field = field
        """Such as `request.messages[0]`; "" for the entry as a whole."""


@contextmanager
def within(field: str) -> Generator[None]:
    """What is unreadable inside is told with this field before its own.

    >>> with within("request"), within("messages"), within("[0]"):
    ...     as_object("hi")
    Traceback (most recent call last):
    Unreadable: 'hi' is no object
    """
    try:
        yield
    except Unreadable as error:
        dot = "." if error.field and not error.field.startswith("[") else ""
        error.field = f"{field}{dot}{error.field}"
        raise


def as_object(value: Any) -> dict[str, Any]:
    """Raises `Unreadable`."""
    if not is_object(value):
        raise Unreadable(f"{value!r:.60} is no object")
    return value


def as_list(value: Any) -> list[Any]:
    """Nothing is an empty one. Raises `Unreadable`."""
    if value is None:
        return []
    if not is_list(value):
        raise Unreadable(f"{value!r:.60} is no list")
    return value
