"""A judge of two answers."""

from dataclasses import dataclass, field
from typing import Literal

from ...episode import Episode, Workspace
from ...errors import BadTask
from ...outcome import Score
from ...task import Task
from ...together import together
from .brief import Brief
from .fence import says_nothing
from .material import answer_of, as_text, section
from .model import JudgeError, JudgeModel
from .template import Preference
from .votes import Combine, check_votes, combined, numbers_of

_WORTH = {"A": 1.0, "tie": 0.5, "B": 0.0}


@dataclass(frozen=True, kw_only=True, slots=True)
class PairJudge:
    """A model says which answer is better. As a grader it sets the policy's answer against `Task.reference`:
    1 is better, 0.5 a tie, 0 worse.

    >>> await PairJudge(model=model).compare("What is 2 + 2?", "4", "5")
    1.0
    """

    model: JudgeModel
    form: Preference = field(default_factory=Preference)
    swaps: bool = True
    """Ask in both orders: models prefer the first answer, or the second."""
    on_disagreement: Literal["tie", "raise"] = "tie"
    """When the two orders have two winners."""
    votes: int = 1
    combine: Combine = "mean"
    max_chars: int = 20_000

    def __post_init__(self) -> None:
        check_votes(self.model, self.votes)

    async def grade(self, task: Task, episode: Episode, workspace: Workspace | None) -> Score:
        """Raises `ValueError` for a task without a reference, `JudgeError` and `EndpointError`."""
        rival = as_text(task.reference or "")
        if says_nothing(rival):
            raise BadTask(f"task {task.id!r} has no reference for the answer to be compared with")
        answer = answer_of(episode)
        worth = await self.compare(task.prompt_text, answer, rival)
        return Score(reward=worth, evidence=f"{worth:g} against the reference, where 1 is better and 0 worse")

    async def compare(self, question: str, first: str, second: str) -> float:
        """1.0 when the first answer is better, 0.0 when the second is, 0.5 for a tie.

        An answer that says nothing loses, and of two equal ones none is better: nobody is asked.
        """
        silent = [says_nothing(text) for text in (first, second)]
        if any(silent) or first == second:
            return 0.5 if first == second or all(silent) else float(silent[1])
        samples = await together(
            *(self._vote(question, first, second, vote) for vote in numbers_of(self.votes))
        )
        return combined([{"worth": worth} for worth in samples], self.combine)["worth"]

    async def orders(
        self, question: str, first: str, second: str, vote: int | None = None
    ) -> tuple[float, float]:
        """What the first answer is worth when it is shown first, and when it is shown second."""
        shown_first, shown_second = await together(
            self._ask(question, first, second, vote), self._ask(question, second, first, vote)
        )
        return shown_first, 1.0 - shown_second

    async def _vote(self, question: str, first: str, second: str, vote: int | None) -> float:
        if not self.swaps:
            return await self._ask(question, first, second, vote)
        found = await self.orders(question, first, second, vote)
        if found[0] != found[1] and self.on_disagreement == "raise":
            raise JudgeError(f"the winner changed with the order of the answers: {found[0]:g}, {found[1]:g}")
        return found[0] if found[0] == found[1] else 0.5

    async def _ask(self, question: str, first: str, second: str, vote: int | None) -> float:
        titles = {"QUESTION": question, "ANSWER A": first, "ANSWER B": second}
        sections = tuple(section(title, text, self.max_chars) for title, text in titles.items())
        brief = Brief(asks=self.form.asks(), sections=sections, fields=self.form.fields())
        return _WORTH[(await self.model.ask(brief, vote=vote))["winner"]]
