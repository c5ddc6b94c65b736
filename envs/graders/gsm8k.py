"""GSM8K's two readings of an answer: the number behind "####", and the last number of all."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from ..episode import Episode, Workspace
from ..errors import BadTask
from ..outcome import Score
from ..task import Task
from .answer import final_answer, reference_text
from .numeric import numbers

MARK = "####"


@dataclass(frozen=True, kw_only=True, slots=True)
class Gsm8k:
    """1 when the last message's number is the reference's; both readings are components.

    >>> score = await Gsm8k().grade(task, episode, None)  # it said "It is 72."; the reference is 72
    >>> score.reward, score.components
    (1.0, {'strict': 0.0, 'flexible': 1.0})

    The reference is a number, or a worked solution that ends in "#### 72". Commas and currency signs do not
    count, nor do zeros behind the point.
    """

    method: Literal["flexible", "strict"] = "flexible"
    """"strict": the one number on the line behind the last "####". "flexible": the last number, wherever it
    stands: chat models begin headings with "####" too."""

    def __post_init__(self) -> None:
        if self.method not in ("flexible", "strict"):
            raise ValueError(f'Gsm8k.method is {self.method!r}; it must be "flexible" or "strict"')

    async def grade(self, task: Task, episode: Episode, workspace: Workspace | None) -> Score:
        """Raises `ValueError` for a reference without a number."""
        expected = reference_number(task)
        marked = final_answer(episode, MARK)
        text = final_answer(episode, None) or ""
        found = {"strict": _only(marked or ""), "flexible": next(reversed(numbers(text)), None)}
        components = {name: float(number == expected) for name, number in found.items()}
        return Score(
            reward=components[self.method],
            components=components,
            evidence=f"strict {found['strict']}, flexible {found['flexible']}, expected {expected}"[:300],
        )


def reference_number(task: Task) -> Decimal:
    """The number of the reference: behind its "####", or all of it."""
    text = reference_text(task)
    number = _only(text.rpartition(MARK)[2])
    if number is None:
        raise BadTask(
            f"task {task.id!r}: the reference {text!r:.200} is no number; it must be one, "
            f'or a solution that ends in "{MARK} 72"'
        )
    return number


def _only(text: str) -> Decimal | None:
    """The number of a text that has exactly one: who names two has not decided."""
    found = numbers(text)
    return found[0] if len(found) == 1 else None
