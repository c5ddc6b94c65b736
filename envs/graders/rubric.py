"""Several graders, one reward."""

import asyncio
from collections.abc import Mapping

from ..episode import Episode, Workspace
from ..errors import Tampered, no_exit, returned
from ..outcome import Score
from ..task import Task
from .grading import Grader


class Rubric:
    """The weighted sum of named graders. Each part is kept: `Score.components` has it without its weight.

    >>> Rubric(correct=(0.9, Numeric(prefix="Answer:")), brief=(0.1, is_brief))
    """

    def __init__(self, **parts: tuple[float, Grader]) -> None:
        if not parts:
            raise ValueError("a Rubric needs at least one part, as in Rubric(correct=(1.0, Exact()))")
        self._parts: Mapping[str, tuple[float, Grader]] = parts

    async def grade(self, task: Task, episode: Episode, workspace: Workspace | None) -> Score:
        """One part that cannot tell means that the rubric cannot: its error is raised, the rest cancelled.
        A part that was tampered with makes `Tampered` of the whole."""
        grades: dict[str, asyncio.Task[Score]] = {}
        try:
            async with asyncio.TaskGroup() as group:
                for name, (_, part) in self._parts.items():
                    grades[name] = group.create_task(_grade(part, task, episode, workspace))
        except ExceptionGroup as errors:
            first = next((e for e in errors.exceptions if isinstance(e, Tampered)), errors.exceptions[0])
            failed = next(
                name for name, grade in grades.items() if not grade.cancelled() and grade.exception() is first
            )
            kind = Tampered if isinstance(first, Tampered) else RuntimeError
            raise kind(f"rubric part {failed!r}: {type(first).__name__}: {first}") from first
        return self._total({name: grade.result() for name, grade in grades.items()})

    def _total(self, scores: Mapping[str, Score]) -> Score:
        components: dict[str, float] = {}
        for name, score in scores.items():
            components[name] = score.reward
            components |= {f"{name}.{inner}": value for inner, value in score.components.items()}
        evidence = "; ".join(f"{name}: {score.evidence}" for name, score in scores.items() if score.evidence)
        reward = sum(weight * scores[name].reward for name, (weight, _) in self._parts.items())
        return Score(reward=reward, components=components, evidence=evidence)


async def _grade(part: Grader, task: Task, episode: Episode, workspace: Workspace | None) -> Score:
    with no_exit():
        return returned(await part.grade(task, episode, workspace), Score, by="the part")
