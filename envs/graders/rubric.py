"""Several graders, one reward."""

import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass

from ..episode import Episode, Workspace
from ..errors import Tampered, is_retryable, no_exit, returned, text_of
from ..outcome import Score
from ..task import Task
from .grading import Grader


@dataclass(frozen=True, kw_only=True, slots=True)
class Gate:
    """A part of a `Rubric` that must reach a threshold, or the whole is the floor.

    >>> Rubric(form=Gate(grader=Tags()), correct=(1.0, Math()))   # right in the wrong form earns nothing
    """

    grader: Grader
    at_least: float = 1.0
    """The part's own reward that opens the gate."""
    floor: float = 0.0
    """The whole behind a shut gate, or the weighted sum where that is lower: to fail must never pay."""
    weight: float = 0.0
    """Of the part in the sum behind an open gate."""


class PartFailed(RuntimeError):
    """A part of a rubric cannot tell, which another try may change or not."""

    def __init__(self, problem: str, *, is_retryable: bool) -> None:
        super().__init__(problem)
        self.is_retryable = is_retryable


class Rubric:
    """The weighted sum of named graders. Each part is kept: `Score.components` has it without its weight.

    >>> Rubric(correct=(0.9, Numeric(prefix="Answer:")), brief=(0.1, is_brief))

    A `Gate` among the parts decides over the whole; all parts are graded and kept all the same.
    """

    def __init__(self, **parts: tuple[float, Grader] | Gate) -> None:
        if not parts:
            raise ValueError("a Rubric needs at least one part, as in Rubric(correct=(1.0, Exact()))")
        self._parts: Mapping[str, tuple[float, Grader]] = {
            name: (part.weight, part.grader) if isinstance(part, Gate) else part
            for name, part in parts.items()
        }
        self._gates = {name: part for name, part in parts.items() if isinstance(part, Gate)}

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
            problem = f"rubric part {failed!r}: {type(first).__name__}: {text_of(first)}"
            if isinstance(first, Tampered):
                raise Tampered(problem) from first
            raise PartFailed(problem, is_retryable=all(map(is_retryable, errors.exceptions))) from first
        return self._total({name: grade.result() for name, grade in grades.items()})

    def _total(self, scores: Mapping[str, Score]) -> Score:
        components: dict[str, float] = {}
        for name, score in scores.items():
            components[name] = score.reward
            components |= {f"{name}.{inner}": value for inner, value in score.components.items()}
        told = [f"{name}: {score.evidence}" for name, score in scores.items() if score.evidence]
        reward = sum(weight * scores[name].reward for name, (weight, _) in self._parts.items())
        for name, gate in self._gates.items():
            reached = scores[name].reward
            if reached < gate.at_least and not math.isclose(reached, gate.at_least, abs_tol=1e-9):
                reward = min(reward, gate.floor)
                told.insert(0, f"gate {name} is shut: {reached:g} < {gate.at_least:g}")
        return Score(reward=reward, components=components, evidence="; ".join(told))


async def _grade(part: Grader, task: Task, episode: Episode, workspace: Workspace | None) -> Score:
    with no_exit():
        return returned(await part.grade(task, episode, workspace), Score, by="the part")
