"""The answer is a number near the reference."""

import re
from dataclasses import dataclass
from decimal import Context, Decimal

from ..episode import Episode, Workspace
from ..errors import BadTask
from ..outcome import Score
from ..task import Task
from .answer import final_answer

_NUMBER = re.compile(
    r"(?<![0-9])[-+]?(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+|(?=\.[0-9]))(?:\.[0-9]+)?(?:[eE][-+]?[0-9]{1,3})?"
)
# Without traps: no answer, however large, makes the arithmetic raise.
_EXACT = Context(prec=60, traps=[])
_DEFAULT_TOL = Decimal("1e-6")
_DEFAULT_SHARE = Decimal("1e-3")


def numbers(text: str) -> list[Decimal]:
    """The numbers in a text, in order.

    >>> numbers("from 1,200 to -3.5e2")
    [Decimal('1200'), Decimal('-3.5E+2')]
    """
    found = _NUMBER.findall(text.replace("\N{MINUS SIGN}", "-"))
    return [_EXACT.create_decimal(number.replace(",", "")) for number in found]


def as_number(text: str) -> Decimal | None:
    """The number that is all of the text; None where there is anything else.

    >>> as_number("-4"), as_number("4 apples")
    (Decimal('-4'), None)
    """
    text = text.strip()
    return numbers(text)[0] if _NUMBER.fullmatch(text) else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Numeric:
    """1 when the answer's number is within the tolerance of the reference, else 0.

    >>> Numeric(prefix="Answer:", rel_tol=0.01)
    Numeric(prefix='Answer:', rel_tol=0.01, abs_tol=None)
    """

    prefix: str | None = None
    """The first number after its last use counts; None: the last number of the last message."""
    rel_tol: float = 0.0
    """Allowed difference, as a share of the reference."""
    abs_tol: float | None = None
    """Allowed difference; the wider of the two tolerances holds. None: 1e-6, but no more than a
    thousandth of the reference, which 0 would otherwise be near to."""

    async def grade(self, task: Task, episode: Episode, workspace: Workspace | None) -> Score:
        expected = numbers(str(task.reference))
        if len(expected) != 1:
            raise BadTask(f"task {task.id!r}: the reference {task.reference!r} is not one number")
        answer = final_answer(episode, self.prefix)
        found = numbers(answer or "")
        if not found:
            return Score(reward=0.0, evidence=f"no number in {answer!r}"[:300])
        number = found[-1] if self.prefix is None else found[0]
        is_near = self._is_near(number, expected[0])
        return Score(reward=float(is_near), evidence=f"answer {number}, expected {expected[0]}"[:300])

    def _is_near(self, number: Decimal, expected: Decimal) -> bool:
        size = expected.copy_abs()
        if self.abs_tol is None:
            absolute = min(_DEFAULT_TOL, _EXACT.multiply(_DEFAULT_SHARE, size)) if size else _DEFAULT_TOL
        else:
            absolute = Decimal(self.abs_tol)
        allowed = max(absolute, _EXACT.multiply(Decimal(self.rel_tol), size))
        return _EXACT.subtract(number, expected).copy_abs() <= allowed
