"""The grader's protocol, and the one place where a grade becomes an outcome."""

import asyncio
from typing import Protocol

from ..episode import Episode, Workspace
from ..errors import EpisodeFailed, boundary, notes, returned
from ..message import utf8
from ..outcome import Failed, Score, Scored, Ungraded
from ..task import Task


class Grader(Protocol):
    """Judges a finished episode. Needs no environment: it can run later, elsewhere, again."""

    async def grade(self, task: Task, episode: Episode, workspace: Workspace | None) -> Score:
        """The score. A grader that cannot tell raises; it never returns a made-up number."""
        ...


async def grade_episode(
    grader: Grader | None, task: Task, episode: Episode, *, timeout_s: float = 60.0
) -> Scored | Ungraded | Failed:
    """The outcome of an episode. A failed episode is not graded; a failed grader gives `Ungraded`."""
    if episode.failure is not None:
        return episode.failure
    if grader is None:
        grader = StepRewards()
    limit = asyncio.timeout(timeout_s)
    try:
        async with limit:
            with boundary("grade"):
                score = await grader.grade(task, episode, episode.workspace)
                score = returned(score, Score, by="the grader")
    except TimeoutError as error:
        return Ungraded(reason=f"timeout: the grader took over {timeout_s:g} s{notes(error)}")
    except EpisodeFailed as error:
        return Ungraded(reason=f"crash: {error.failed.cause}: {error.failed.message}")
    return Scored(reward=score.reward, components=score.components, evidence=utf8(score.evidence))


class StepRewards:
    """The sum of the step rewards: how an environment without a grader is judged."""

    async def grade(self, task: Task, episode: Episode, workspace: Workspace | None) -> Score:
        return Score(reward=sum(episode.rewards))
