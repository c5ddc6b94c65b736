"""The grader's protocol, and the one place where a grade becomes an outcome."""

import asyncio
import math
from typing import Protocol

from ..episode import Episode, Workspace
from ..errors import EpisodeFailed, Tampered, boundary, notes, returned
from ..message import utf8
from ..outcome import Failed, Score, Scored, Ungraded
from ..task import Task


class Grader(Protocol):
    """Judges a finished episode. Needs no environment: it can run later, elsewhere, again."""

    async def grade(self, task: Task, episode: Episode, workspace: Workspace | None) -> Score:
        """The score. A grader that cannot tell raises; it never returns a made-up number."""
        ...


async def grade_episode(
    grader: Grader | None,
    task: Task,
    episode: Episode,
    *,
    reward_range: tuple[float, float] = (-math.inf, math.inf),
    timeout_s: float = 60.0,
) -> Scored | Ungraded | Failed:
    """The outcome of an episode. A failed episode is not graded.

    A grader that fails gives `Ungraded`; so does one whose score is outside the env's `reward_range`. Step
    rewards stand as they are: what a policy can cause keeps its reward, or it learns to cause it. Evidence of
    tampering is no failure either: it gives the floor.
    """
    if episode.failure is not None:
        return episode.failure
    judge = StepRewards() if grader is None else grader
    limit = asyncio.timeout(timeout_s)
    try:
        async with limit:
            with boundary("grade"):
                try:
                    score = await judge.grade(task, episode, episode.workspace)
                except Tampered as found:
                    score = _floor(found, reward_range[0])
                score = returned(score, Score, by="the grader")
    except TimeoutError as error:
        return Ungraded(reason=f"timeout: the grader took over {timeout_s:g} s{notes(error)}")
    except EpisodeFailed as error:
        return Ungraded(reason=f"crash: {error.failed.cause}: {error.failed.message}")
    if grader is not None and not _is_within(score.reward, reward_range):
        return Ungraded(
            reason=f"range: the reward {score.reward:g} is outside the env's reward_range {reward_range}; "
            "declare a wider one on the environment, or mend the grader"
        )
    components = {utf8(name): part for name, part in score.components.items()}
    return Scored(reward=score.reward, components=components, evidence=utf8(score.evidence))


def _floor(found: Tampered, floor: float) -> Score:
    return Score(reward=floor if math.isfinite(floor) else 0.0, evidence=f"tampered: {found}")


def _is_within(reward: float, bounds: tuple[float, float]) -> bool:
    """Also a bound missed by rounding, as by 0.7 + 0.2 + 0.1."""
    floor, maximum = bounds
    return floor <= reward <= maximum or any(math.isclose(reward, bound, abs_tol=1e-9) for bound in bounds)


class StepRewards:
    """The sum of the step rewards: how an environment without a grader is judged."""

    async def grade(self, task: Task, episode: Episode, workspace: Workspace | None) -> Score:
        return Score(reward=sum(episode.rewards))
