"""A judge of one answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ...episode import Episode, Workspace
from ...outcome import Score
from ...task import Task
from ...together import together
from .brief import REASON, Brief
from .material import answer_of, section, task_sections, thoughts_of, turns_of
from .model import JudgeModel
from .template import Form
from .votes import Combine, check_votes, combined, numbers_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Judge:
    """A model grades the answer, from 0 to 1. A verdict that cannot be read is an exception, never a number.

    >>> judge = Judge(model=model, form=SUMMARY)
    >>> judge = Judge(model=model, form=Checklist(criteria=(Criterion(name="polite", asks="Is it polite?"),)))

    An answer without a letter, a number or a symbol is 0, and nobody is asked.
    """

    model: JudgeModel
    form: Form
    votes: int = 1
    """Samples of each verdict; over 1 it wants a temperature over 0."""
    combine: Combine = "mean"
    reads: Literal["answer", "conversation"] = "answer"
    """The last message, or all that was said and done after the task."""
    max_chars: int = 20_000
    """Of each text, and of all turns together; the middle of a longer one is left out, and the judge told."""

    def __post_init__(self) -> None:
        check_votes(self.model, self.votes)

    async def grade(self, task: Task, episode: Episode, workspace: Workspace | None) -> Score:
        """Raises `JudgeError` and `EndpointError`."""
        said = self._said(episode)
        if not said:
            return Score(reward=0.0, evidence="the answer says nothing")
        brief = self._brief(task, episode, said)
        verdicts = await together(*(self.model.ask(brief, vote=vote) for vote in numbers_of(self.votes)))
        parts = combined([self.form.parts(verdict) for verdict in verdicts], self.combine)
        return Score(
            reward=self.form.reward(parts), components=parts, evidence=f"{verdicts[0][REASON]:.1000}"
        )

    def _said(self, episode: Episode) -> list[tuple[str, str]]:
        if self.reads == "conversation":
            return turns_of(episode, self.max_chars)
        answer = answer_of(episode)
        return [section("ANSWER", answer, self.max_chars)] if answer else []

    def _brief(self, task: Task, episode: Episode, said: Sequence[tuple[str, str]]) -> Brief:
        sections = task_sections(task, self.max_chars)
        if self.form.shows_reasoning and (thoughts := thoughts_of(episode)):
            sections.append(section("THOUGHTS", thoughts, self.max_chars))
        sections += said
        return Brief(asks=self.form.asks(), sections=tuple(sections), fields=self.form.fields())
