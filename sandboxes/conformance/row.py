"""A row of the suite: an attack, and how to say that it got through."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum

from ..sandbox import ExecResult, ExecStatus
from .target import Target

Attack = Callable[[Target], Awaitable[str]]
"""Tries its worst and returns what it tried in vain; raises `Broken` when it got through."""


class Verdict(StrEnum):
    """What came of a row."""

    HELD = "held"
    REFUSED = "refused"
    """The tier promises less than the row asks, says so (`matrix.py`), and does what it says instead."""
    BROKEN = "broken"


class Broken(Exception):
    """An attack got through; the message says how."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One attack of the list.

    >>> ROWS[15].title
    'a program that reads stdin with none given meets its end at once'
    """

    number: int
    title: str
    attack: Attack
    refusal: Attack | None = None
    """Tries what a tier does instead that refuses this row."""
    limit_s: float = 60.0
    """Seconds that the quick form may take on a busy machine; the full one has 30 times as long."""


def row(
    number: int, title: str, *, refusal: Attack | None = None, limit_s: float = 60.0
) -> Callable[[Attack], Row]:
    """Make a row of its attack."""

    def make(attack: Attack) -> Row:
        return Row(number=number, title=title, attack=attack, refusal=refusal, limit_s=limit_s)

    return make


def expect(holds: bool, otherwise: object) -> None:
    """Raises `Broken`, which says `otherwise`, when it does not hold."""
    if not holds:
        raise Broken(str(otherwise))


def told(result: ExecResult) -> str:
    """A result in a line."""
    end = f"exit code {result.exit_code}" if result.exit_code is not None else "no exit code"
    said = (result.stdout[-600:] + result.stderr[-600:]).decode(errors="replace").strip()
    return f"{result.status.value}, {end}, {result.wall_s:.2f} s: {said or 'no word'}"


def printed(result: ExecResult) -> str:
    """What a program printed that had to end well."""
    expect(result.ok, f"a harmless program ended with {told(result)}")
    return result.stdout.decode(errors="replace").strip()


def held(result: ExecResult) -> None:
    """The program prints each thing that it should not have been able to do, and at its end "done"."""
    expect(result.ok and result.stdout == b"done\n", f"got through, or could not try: {told(result)}")


def ended(result: ExecResult, *statuses: ExecStatus, name: str) -> None:
    """It had to end in one of these ways."""
    wanted = " or ".join(status.value for status in statuses)
    expect(result.status in statuses, f"{name} should end as {wanted}; it ended with {told(result)}")
