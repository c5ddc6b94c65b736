"""Plain functions as graders."""

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from ..episode import Episode, Workspace
from ..outcome import Score
from ..task import Task
from ..threads import in_thread

Judge = Callable[[Task, Episode], float] | Callable[[Task, Episode], Awaitable[float]]


@dataclass(frozen=True, slots=True)
class FunctionGrader:
    """Made by `grader`."""

    function: Callable[[Task, Episode], Any]

    async def grade(self, task: Task, episode: Episode, workspace: Workspace | None) -> Score:
        if inspect.iscoroutinefunction(self.function):
            return Score(reward=await self.function(task, episode))
        return Score(reward=await in_thread(lambda: self.function(task, episode)))


def grader(function: Judge) -> FunctionGrader:
    """A function of task and episode as a grader; a plain `def` runs in a thread.

    >>> @grader
    ... def is_brief(task: Task, episode: Episode) -> float:
    ...     return float(episode.num_turns <= 2)
    """
    return FunctionGrader(function)
