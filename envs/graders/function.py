"""Plain functions as graders."""

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from ..episode import Episode, Workspace
from ..outcome import Score
from ..task import Task
from ..threads import in_thread

Judge = Callable[[Task, Episode], float | Awaitable[float]]


@dataclass(frozen=True, slots=True)
class FunctionGrader:
    """Made by `grader`."""

    function: Judge

    async def grade(self, task: Task, episode: Episode, workspace: Workspace | None) -> Score:
        reward = await in_thread(lambda: self.function(task, episode))
        if inspect.isawaitable(reward):
            reward = await reward
        return Score(reward=float(reward))


def grader(function: Judge) -> FunctionGrader:
    """A function of task and episode as a grader; a plain `def` runs in a thread.

    >>> @grader
    ... def is_brief(task: Task, episode: Episode) -> float:
    ...     return float(episode.num_turns <= 2)
    """
    return FunctionGrader(function)
