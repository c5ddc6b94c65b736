"""The grader's protocol, and the one place where a grade becomes an outcome."""

import asyncio
from typing import Protocol

from ..episode import Episode, Workspace
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
    try:
        if grader is None:
            score = Score(reward=sum(episode.rewards))
        else:
            score = await asyncio.wait_for(grader.grade(task, episode, episode.workspace), timeout_s)
    except TimeoutError:
        return Ungraded(reason=f"timeout: the grader took over {timeout_s:g} s")
    except Exception as error:  # every kind: graders are other people's code, and a crash is not a zero
        return Ungraded(reason=f"crash: {type(error).__name__}: {error}"[:2000])
    return Scored(reward=score.reward, components=score.components, evidence=score.evidence)
