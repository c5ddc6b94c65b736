"""Answers about financial reports: percent against fraction, currency, millions, rounding."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal

from ..episode import Episode, Workspace
from ..errors import BadTask
from ..outcome import Score
from ..task import Task
from .answer import final_answer, reference_text
from .numeric import numbers

PREFIX = "Answer:"
_CURRENCY = re.compile(r"US\$|[$€£¥]")
_AMOUNT = re.compile(
    r"(?<![\w.])(?P<open>\(\s*)?(?P<number>(?:[-+]\s*)?"
    r"(?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][-+]?[0-9]{1,3})?)"
    r"\s*(?P<unit>%|percent|per cent|(?:thousand|million|billion|trillion)s?\b)?\s*(?P<close>\))?",
    re.IGNORECASE,
)
_SCALES = {
    "thousand": Decimal(10**3),
    "million": Decimal(10**6),
    "billion": Decimal(10**9),
    "trillion": Decimal(10**12),
}
_HUNDRED = Decimal(100)
_ROUNDING = Decimal("5e-6")
"""FinQA's references have five decimals."""
_STRICT_SHARE = Decimal("1e-4")


@dataclass(frozen=True, kw_only=True, slots=True)
class Amount:
    """A number as it was written."""

    number: Decimal
    unit: str = ""
    """"%", "thousand" ... "trillion", or ""."""

    @property
    def strict(self) -> tuple[Decimal, ...]:
        """What it means by its own unit; "3.8 million" is 3.8 too, where the question asks for millions."""
        if self.unit == "%":
            return (self.number / _HUNDRED,)
        return (self.number, self.number * _SCALES[self.unit]) if self.unit else (self.number,)

    @property
    def loose(self) -> tuple[Decimal, ...]:
        """What it may mean: references say now 0.109, now 10.9 for 10.9%."""
        as_written = (*self.strict, self.number)
        return as_written if self.unit else (*as_written, self.number / _HUNDRED, self.number * _HUNDRED)


@dataclass(frozen=True, kw_only=True, slots=True)
class FinQA:
    """1 when the answer is the reference, a number or yes or no, in one of the ways it can be written.

    >>> score = await FinQA().grade(task, episode, None)  # it said "Answer: 10.9%"; the reference is 0.10935
    >>> score.reward, score.components
    (1.0, {'strict': 0.0, 'loose': 1.0})

    The reward is the loose score: percent or fraction, rounded to `rel_tol`. The strict one takes a percent
    sign at its word and allows a ten-thousandth (references have five decimals). The sign always counts;
    "(3.5)" alone is -3.5. What counts stands behind the last "Answer:", or else in the last line.
    """

    rel_tol: float = 0.01
    """Of the loose score: allowed difference, as a share of the reference."""

    async def grade(self, task: Task, episode: Episode, workspace: Workspace | None) -> Score:
        """Raises `ValueError` for a reference that is neither a number nor yes or no."""
        reference = reference_text(task).strip()
        behind = final_answer(episode, PREFIX)
        lines = (final_answer(episode, None) or "").splitlines() or [""]
        said = lines[-1] if behind is None else behind
        if reference.casefold() in ("yes", "no"):
            is_right = set(re.findall(r"\b(?:yes|no)\b", said.casefold())) == {reference.casefold()}
            return self._score(is_right, is_right, said, reference)
        expected = _expected(task.id, reference).strict
        found = list(amounts(said))
        if not found:
            return self._score(False, False, said, reference)
        amount = found[0] if behind is not None else found[-1]
        is_strict = any_near(amount.strict, expected, _STRICT_SHARE)
        return self._score(
            is_strict, any_near(amount.loose, expected, Decimal(self.rel_tol)), said, reference
        )

    def _score(self, is_strict: bool, is_loose: bool, said: str, reference: str) -> Score:
        components = {"strict": float(is_strict), "loose": float(is_loose)}
        evidence = f"answer {said[:150]!r}, expected {reference!r:.100}"
        return Score(reward=components["loose"], components=components, evidence=evidence)


def amounts(text: str) -> Iterator[Amount]:
    """The amounts in a text, in order.

    >>> [(str(amount.number), amount.unit) for amount in amounts("$ 1,200 million, or 3.5%")]
    [('1200', 'million'), ('3.5', '%')]
    """
    text = _CURRENCY.sub("", text.replace("\N{MINUS SIGN}", "-")).strip().rstrip(".")
    for found in _AMOUNT.finditer(text):
        (number,) = numbers(found["number"].replace(",", "").replace(" ", ""))
        is_bracketed = found["open"] and found["close"] and found.group().strip() == text
        unit = (found["unit"] or "").casefold().removesuffix("s")
        unit = "%" if unit.startswith("per") else unit
        yield Amount(number=-number.copy_abs() if is_bracketed else number, unit=unit)


def any_near(found: Sequence[Decimal], expected: Sequence[Decimal], share: Decimal) -> bool:
    """Whether a reading is within that share of the reference, or within the rounding of its decimals."""
    return any(
        abs(number - wanted) <= max(share * abs(wanted), _ROUNDING) for number in found for wanted in expected
    )


def _expected(task_id: str, reference: str) -> Amount:
    found = list(amounts(reference))
    if len(found) != 1:
        raise BadTask(
            f"task {task_id!r}: the reference {reference!r:.200} holds {len(found)} numbers; "
            'it must be one, as "0.10935", or "yes" or "no"'
        )
    return found[0]
