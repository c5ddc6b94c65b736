"""The answer is the reference, letter by letter."""

from dataclasses import dataclass

from ..episode import Episode, Workspace
from ..outcome import Score
from ..task import Task
from .answer import final_answer, reference_text


@dataclass(frozen=True, kw_only=True, slots=True)
class Exact:
    """1 when the answer equals `str(task.reference)`, else 0. Runs of white space count as one space.

    A task without a reference, or with a blank one, has no number: saying nothing would earn the maximum.

    >>> Exact(prefix="Answer:")
    Exact(prefix='Answer:', ignore_case=False)
    """

    prefix: str | None = None
    """What stands before the answer; None: the answer is all of the last message."""
    ignore_case: bool = False

    async def grade(self, task: Task, episode: Episode, workspace: Workspace | None) -> Score:
        reference = reference_text(task)
        answer = final_answer(episode, self.prefix)
        if answer is None:
            return Score(reward=0.0, evidence=f"no {self.prefix!r} in the last message")
        is_equal = self._normal(answer) == self._normal(reference)
        return Score(reward=float(is_equal), evidence=f"answer {answer[:200]!r}, expected {task.reference!r}")

    def _normal(self, text: str) -> str:
        text = " ".join(text.split())
        return text.casefold() if self.ignore_case else text
