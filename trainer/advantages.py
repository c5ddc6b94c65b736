"""Group-relative advantages: how much better an episode did than its siblings.

The statistics are over episodes, however many token segments each has. What has no number, and what the
`GroupPolicy` turns away, is in no baseline; it leaves as a `Rejection` with its reason.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from ..agents.trajectory import EpisodeKey, Group, Trajectory
from ..envs import Failed, Scored, Ungraded

STD_FLOOR = 1e-4
"""Added to a group's standard deviation, as TRL does: it bounds the advantage of near-equal siblings."""

MAX_REWARD = 1e30
"""Of larger ones, advantages and losses overflow."""


class AdvantageKind(StrEnum):
    """Which baseline and which scale."""

    GRPO = "grpo"
    """(r - mean) / (std + 1e-4); the std is the sample one (n - 1). DeepSeekMath, arXiv 2402.03300."""
    DR_GRPO = "dr_grpo"
    """r - mean: no bias towards groups that are nearly solved or nearly hopeless. arXiv 2503.20783."""
    RLOO = "rloo"
    """r - mean of the others: an unbiased baseline. arXiv 2402.14740."""


class Reason(StrEnum):
    """Why an episode is not trained on."""

    FAILED = "failed"
    UNGRADED = "ungraded"
    TRUNCATED = "truncated"
    SMALL_GROUP = "small_group"
    """Too few siblings were left for a baseline."""
    ZERO_VARIANCE = "zero_variance"
    """Every sibling has the same reward, so every advantage is 0."""
    LATE_GROUP = "late_group"
    """The group was closed before each of its grades was there."""
    OVERFLOW = "overflow"
    """A sibling's reward is over `MAX_REWARD`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupPolicy:
    """What happens to members without a number, to truncated ones and to groups that teach nothing.

    A failed or ungraded member is always left out: no number stands for it.
    """

    min_size: int = 2
    """Members with a number that a group needs. At least 2: a single reward is no advantage."""
    truncated: Literal["keep", "drop"] = "keep"
    """Dropping episodes that the policy itself made long teaches it to make bad ones long."""
    late: Literal["keep", "drop"] = "keep"
    """Groups that were closed without some of their grades: those that are there may be the easy ones."""
    zero_variance: Literal["keep", "drop"] = "drop"
    """Kept members have advantage 0 but count in the normaliser, which shrinks the step."""

    def __post_init__(self) -> None:
        if self.min_size < 2:
            raise ValueError(f"GroupPolicy.min_size is {self.min_size}; a baseline needs 2 members or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class Accepted:
    """An episode to train on."""

    trajectory: Trajectory
    advantage: float
    """Units of reward (dr_grpo, rloo) or of the group's standard deviation (grpo)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rejection:
    """An episode that is not trained on."""

    key: EpisodeKey
    reason: Reason
    detail: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Credit:
    """Every member of a group, on one side or the other."""

    accepted: tuple[Accepted, ...] = ()
    rejected: tuple[Rejection, ...] = ()


def advantages(rewards: Sequence[float], kind: AdvantageKind = AdvantageKind.GRPO) -> tuple[float, ...]:
    """One advantage for each reward of a group; they sum to 0.

    >>> advantages([1.0, 0.0, 0.0, 0.0], AdvantageKind.DR_GRPO)
    (0.75, -0.25, -0.25, -0.25)
    """
    if len(rewards) < 2:
        raise ValueError(f"{len(rewards)} reward(s) in the group; a baseline needs 2 or more")
    if not all(abs(reward) <= MAX_REWARD for reward in rewards):
        raise ValueError(
            f"rewards {tuple(rewards)} are not all finite and within {MAX_REWARD:g}; leave those members out"
        )
    if min(rewards) == max(rewards):
        return (0.0,) * len(rewards)
    mean = math.fsum(rewards) / len(rewards)
    scale = _SCALES[kind](rewards)
    return tuple((reward - mean) * scale for reward in rewards)


_SCALES: dict[AdvantageKind, Callable[[Sequence[float]], float]] = {
    AdvantageKind.GRPO: lambda rewards: 1 / (statistics.stdev(rewards) + STD_FLOOR),
    AdvantageKind.DR_GRPO: lambda rewards: 1.0,
    AdvantageKind.RLOO: lambda rewards: len(rewards) / (len(rewards) - 1),
}


def credit(
    group: Group, kind: AdvantageKind = AdvantageKind.GRPO, policy: GroupPolicy | None = None
) -> Credit:
    """Judge each member of a group by its siblings."""
    policy = policy or GroupPolicy()
    scored: list[tuple[Trajectory, float]] = []
    rejected: list[Rejection] = []
    for member in group.members:
        verdict = _judge(member, policy)
        if isinstance(verdict, Rejection):
            rejected.append(verdict)
        else:
            scored.append((member, verdict))
    rewards = [reward for _, reward in scored]
    num_late = sum(isinstance(m.outcome, Ungraded) and m.outcome.is_late for m in group.members)
    whole = _judge_group(rewards, num_late, policy)
    if whole is not None:
        reason, detail = whole
        rejected += [Rejection(key=member.key, reason=reason, detail=detail) for member, _ in scored]
        return Credit(rejected=tuple(rejected))
    accepted = (
        Accepted(trajectory=member, advantage=advantage)
        for (member, _), advantage in zip(scored, advantages(rewards, kind), strict=True)
    )
    return Credit(accepted=tuple(accepted), rejected=tuple(rejected))


def _judge(member: Trajectory, policy: GroupPolicy) -> float | Rejection:
    """A member's reward, or why it has no say."""
    match member.outcome:
        case Failed(stage=stage, cause=cause):
            return Rejection(key=member.key, reason=Reason.FAILED, detail=f"{stage}: {cause}")
        case Ungraded(reason=reason):
            return Rejection(key=member.key, reason=Reason.UNGRADED, detail=reason)
        case Scored(reward=reward):
            if policy.truncated == "drop" and member.episode.stop.is_truncated:
                stop = str(member.episode.stop)
                return Rejection(key=member.key, reason=Reason.TRUNCATED, detail=stop)
            return reward


def _judge_group(rewards: Sequence[float], num_late: int, policy: GroupPolicy) -> tuple[Reason, str] | None:
    """Why none of the group is trained on; None when it is."""
    if policy.late == "drop" and num_late:
        return Reason.LATE_GROUP, f"{num_late} grades were not there in time"
    if len(rewards) < policy.min_size:
        return Reason.SMALL_GROUP, f"{len(rewards)} of {policy.min_size} members with a number"
    if (largest := max(map(abs, rewards))) > MAX_REWARD:
        return Reason.OVERFLOW, f"a reward of {largest:g}"
    if policy.zero_variance == "drop" and min(rewards) == max(rewards):
        return Reason.ZERO_VARIANCE, f"all {rewards[0]}"
    return None
