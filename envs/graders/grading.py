"""The grader's protocol, and the one place where a grade becomes an outcome."""

import asyncio
import math
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

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


@runtime_checkable
class GroupGrader(Protocol):
    """Judges the siblings of a group together, such as by comparing them."""

    async def grade_group(self, task: Task, episodes: Sequence[Episode]) -> Sequence[Score]:
        """One score for each episode, in their order. Failed siblings are not among them."""
        ...


AnyGrader = Grader | GroupGrader
Verdict = Score | Tampered | Ungraded
"""What a grader says of an episode: a score, evidence of an attack, or that it cannot tell."""


async def grade_episode(
    grader: AnyGrader | None,
    task: Task,
    episode: Episode,
    *,
    reward_range: tuple[float, float] = (-math.inf, math.inf),
    timeout_s: float = 60.0,
) -> Scored | Ungraded | Failed:
    """The outcome of an episode. A failed episode is not graded; to a group grader it is a group of one.

    A grader that fails gives `Ungraded`; so does one whose score is outside the env's `reward_range`. Step
    rewards stand as they are: what a policy can cause keeps its reward, or it learns to cause it. Evidence of
    tampering is no failure either: it gives the floor.
    """
    if episode.failure is not None:
        return episode.failure
    limit = asyncio.timeout(timeout_s)
    try:
        async with limit:
            (verdict,) = await ask(grader or StepRewards(), task, [episode])
    except TimeoutError as error:
        return Ungraded(reason=f"timeout: the grader took over {timeout_s:g} s{notes(error)}")
    except EpisodeFailed as error:
        return Ungraded(reason=crash(error.failed))
    bounds = (-math.inf, math.inf) if grader is None else reward_range
    return outcome_of(verdict, episode, bounds)


async def ask(grader: AnyGrader, task: Task, episodes: Sequence[Episode]) -> tuple[Verdict, ...]:
    """One verdict each: of a group grader on all, of any other on the only one. Raises `EpisodeFailed`."""
    with boundary("grade"):
        try:
            if isinstance(grader, GroupGrader):
                scores = list(await grader.grade_group(task, episodes))
            else:
                (episode,) = episodes
                scores = [await grader.grade(task, episode, episode.workspace)]
        except Tampered as found:
            return (found,) * len(episodes)
        verdicts = tuple(returned(score, Score, by="the grader") for score in scores)
        if len(verdicts) != len(episodes):
            raise TypeError(f"the grader returned {len(verdicts)} scores for {len(episodes)} episodes")
        return verdicts


def outcome_of(verdict: Verdict, episode: Episode, reward_range: tuple[float, float]) -> Scored | Ungraded:
    """What a verdict makes of an episode: a number only if it is one that the env can give."""
    if isinstance(verdict, Ungraded):
        return verdict
    score = _floor(verdict, reward_range[0]) if isinstance(verdict, Tampered) else verdict
    if not _is_within(score.reward, reward_range):
        return Ungraded(
            reason=f"range: the reward {score.reward:g} is outside the env's reward_range {reward_range}; "
            "declare a wider one on the environment, or mend the grader"
        )
    if score.turns and len(score.turns) != episode.num_turns:
        return Ungraded(reason=f"turns: {len(score.turns)} rewards for {episode.num_turns} turns")
    components = {utf8(name): part for name, part in score.components.items()}
    return Scored(
        reward=score.reward, components=components, evidence=utf8(score.evidence), turns=score.turns
    )


def crash(failed: Failed) -> str:
    """The reason of an `Ungraded` whose grader raised."""
    return f"crash: {failed.cause}: {failed.message}"


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
