"""Who is trained on, and with which advantage. What has no number, and what the `GroupPolicy` turns away, is
in no baseline; it leaves as a `Rejection` with its reason.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from typing import Literal

from ...agents.trajectory import EpisodeKey, Group, Trajectory
from ...envs import Failed, Scored, Ungraded
from ._graded import MAX_REWARD, Advantage, Graded, Value
from .grpo import Grpo


class Reason(StrEnum):
    """Why an episode is not trained on."""

    FAILED = "failed"
    UNGRADED = "ungraded"
    TRUNCATED = "truncated"
    MASKED = "masked"
    """Truncated: its siblings are compared with it, and its own tokens are in no loss."""
    REPLACED = "replaced"
    """It has no number, and another rollout took its place."""
    SMALL_GROUP = "small_group"
    """Too few siblings were left for a baseline."""
    ZERO_VARIANCE = "zero_variance"
    """Every sibling has the same reward, so every advantage is 0."""
    LATE_GROUP = "late_group"
    """The group was closed before each of its grades was there."""
    NOT_FINITE = "not_finite"
    """Its reward, or that of one of its turns, is NaN or infinite, which is no number either."""
    OVERFLOW = "overflow"
    """A sibling's reward is over `MAX_REWARD`."""
    LOST_SIBLING = "lost_sibling"
    """Another member of the group has no number, or was turned away."""
    NO_TURNS = "no_turns"
    """There is not one advantage for each of its turns."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupPolicy:
    """What happens to members without a number, to truncated ones and to groups that teach nothing.

    A failed or ungraded member is always left out: no number stands for it. So is one whose reward, or a
    turn's, is not finite, and one without an advantage for each of its turns: the others are judged again.
    Each rule meets what the ones before it have left.
    """

    refill: int = 0
    """So many times a member without a number is rolled out anew, before anything else here looks at it: as
    another sample, with a seed of its own (`GroupRequest.refill`). A group is then of those that could be
    graded; the metrics `lost_share` and `refill_shift` say what that hides."""
    min_size: int = 2
    """Members with a number that a group needs. At least 2: a single reward is no advantage."""
    lost: Literal["member", "group"] = "member"
    """What goes with a member that has no number or is turned away: itself, or its whole group. Either way
    the mean is of those that are left; the metrics `reward_lower` and `reward_upper` say how far it may be
    off."""
    truncated: Literal["keep", "mask", "drop"] = "keep"
    """Masked ones are in the baseline and not in the loss (the overlong filter of DAPO, arXiv 2503.14476),
    dropped ones in neither. Either way the policy does not hear that what it made long was bad."""
    late: Literal["keep", "drop"] = "keep"
    """Groups that were closed without some of their grades: those that are there may be the easy ones."""
    zero_variance: Literal["keep", "drop"] = "drop"
    """Kept members have advantage 0 but count in the normaliser, which shrinks the step."""

    def __post_init__(self) -> None:
        if self.min_size < 2:
            raise ValueError(f"GroupPolicy.min_size is {self.min_size}; a baseline needs 2 members or more")
        if self.refill < 0:
            raise ValueError(f"GroupPolicy.refill is {self.refill}; it counts rollouts, from 0 on")


@dataclass(frozen=True, kw_only=True, slots=True)
class Accepted:
    """An episode to train on."""

    trajectory: Trajectory
    advantage: float
    """Units of reward, or of a standard deviation where the algorithm divides by one. The mean over `turns`
    where there are some."""
    turns: tuple[float, ...] = ()
    """One for each turn; empty: `advantage` counts for all of them."""


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


def credit(group: Group, advantage: Advantage | None = None, policy: GroupPolicy | None = None) -> Credit:
    """Judge each member of a group by its siblings. None: GRPO and the default policy."""
    return credit_step([group], advantage, policy)


def credit_step(
    groups: Sequence[Group], advantage: Advantage | None = None, policy: GroupPolicy | None = None
) -> Credit:
    """Judge every episode of a step: algorithms with statistics of the batch see all groups that are left."""
    advantage, policy = advantage or Grpo(), policy or GroupPolicy()
    smallest = max(policy.min_size, getattr(advantage, "min_size", 2))
    unfit: dict[EpisodeKey, Rejection] = {}
    while True:  # who cannot carry its advantages is in no baseline either
        sides = [_sides(group, policy, smallest, unfit) for group in groups]
        compared = [scored for scored, _ in sides if scored]
        values = advantage([[_graded(*pair) for pair in scored] for scored in compared])
        more = _unfit(compared, values)
        if not more:
            break
        unfit |= more
    judged: list[Accepted | Rejection] = []
    for scored, found in zip(compared, values, strict=True):
        if policy.zero_variance == "drop" and not any(map(_teaches, found)):
            judged += _without_variance(scored)
        else:
            judged += [_accept(m, value, policy) for (m, _), value in zip(scored, found, strict=True)]
    left_out = chain.from_iterable(turned_away for _, turned_away in sides)
    return Credit(
        accepted=tuple(each for each in judged if isinstance(each, Accepted)),
        rejected=(*left_out, *(each for each in judged if isinstance(each, Rejection))),
    )


_Pairs = list[tuple[Trajectory, float]]


def _sides(
    group: Group, policy: GroupPolicy, smallest: int, unfit: Mapping[EpisodeKey, Rejection]
) -> tuple[_Pairs, list[Rejection]]:
    """The members of a group that may be compared, and the others."""
    scored: _Pairs = []
    rejected: list[Rejection] = []
    for member in group.members:
        verdict = unfit.get(member.key) or _judge(member, policy)
        if isinstance(verdict, Rejection):
            rejected.append(verdict)
        else:
            scored.append((member, verdict))
    num_late = sum(isinstance(m.outcome, Ungraded) and m.outcome.is_late for m in group.members)
    whole = _judge_group(scored, len(rejected), num_late, policy, smallest)
    rejected += [_replaced(member, policy) for member in group.replaced]
    if whole is None:
        return scored, rejected
    return [], rejected + [_turned_away(member, *whole) for member, _ in scored]


def _judge(member: Trajectory, policy: GroupPolicy) -> float | Rejection:
    """A member's reward, or why it has no say."""
    match member.outcome:
        case Failed(stage=stage, cause=cause):
            return _turned_away(member, Reason.FAILED, f"{stage}: {cause}")
        case Ungraded(reason=reason):
            return _turned_away(member, Reason.UNGRADED, reason)
        case Scored(reward=reward):
            if policy.truncated == "drop" and member.episode.is_truncated:
                return _turned_away(member, Reason.TRUNCATED, _cut_by(member))
            odd = [each for each in (reward, *turn_rewards(member, reward)) if not math.isfinite(each)]
            return _turned_away(member, Reason.NOT_FINITE, f"a reward of {odd[0]:g}") if odd else reward


def _replaced(member: Trajectory, policy: GroupPolicy) -> Rejection:
    verdict = _judge(member, policy)
    assert isinstance(verdict, Rejection), f"{member.key} has a number and was replaced"
    return _turned_away(member, Reason.REPLACED, f"{verdict.reason}: {verdict.detail}")


def _judge_group(
    scored: _Pairs, num_lost: int, num_late: int, policy: GroupPolicy, smallest: int
) -> tuple[Reason, str] | None:
    """Why none of the group is trained on; None when it is."""
    if policy.late == "drop" and num_late:
        return Reason.LATE_GROUP, f"{num_late} grades were not there in time"
    if policy.lost == "group" and num_lost:
        return Reason.LOST_SIBLING, f"{num_lost} of {num_lost + len(scored)} members were lost"
    if len(scored) < smallest:
        return Reason.SMALL_GROUP, f"{len(scored)} of {smallest} members with a number"
    if (largest := max(_size(*pair) for pair in scored)) > MAX_REWARD:
        return Reason.OVERFLOW, f"a reward of {largest:g}"
    return None


def _unfit(groups: Sequence[_Pairs], values: Sequence[Sequence[Value]]) -> dict[EpisodeKey, Rejection]:
    """Members whose advantages are not one for each of their turns."""
    found: dict[EpisodeKey, Rejection] = {}
    for scored, values_G in zip(groups, values, strict=True):
        for (member, _), value in zip(scored, values_G, strict=True):
            if isinstance(value, tuple) and (not value or len(value) != _num_calls(member)):
                detail = f"{len(value)} advantages for {_num_calls(member)} calls of the engine"
                found[member.key] = _turned_away(member, Reason.NO_TURNS, detail)
    return found


def _without_variance(scored: _Pairs) -> list[Rejection]:
    rewards = {reward for _, reward in scored}
    detail = f"all {scored[0][1]}" if len(rewards) == 1 else "every advantage is 0"
    return [_turned_away(member, Reason.ZERO_VARIANCE, detail) for member, _ in scored]


def _accept(member: Trajectory, value: Value, policy: GroupPolicy) -> Accepted | Rejection:
    if policy.truncated == "mask" and member.episode.is_truncated:
        return _turned_away(member, Reason.MASKED, _cut_by(member))
    if not isinstance(value, tuple):
        return Accepted(trajectory=member, advantage=value)
    return Accepted(trajectory=member, advantage=math.fsum(value) / len(value), turns=value)


def _turned_away(member: Trajectory, reason: Reason, detail: str) -> Rejection:
    return Rejection(key=member.key, reason=reason, detail=detail)


def _cut_by(member: Trajectory) -> str:
    """What ended an episode before its time."""
    stop = member.episode.stop
    return str(stop) if stop.is_truncated else "the last answer's length"


def _teaches(value: Value) -> bool:
    return any(value) if isinstance(value, tuple) else value != 0


def _graded(member: Trajectory, reward: float) -> Graded:
    return Graded(reward=reward, turns=turn_rewards(member, reward), num_tokens=member.graph.num_sampled)


def turn_rewards(member: Trajectory, reward: float) -> tuple[float, ...]:
    """What each turn earned: as the grader says; else by its steps, where the reward is their sum; else all
    of it at the end."""
    outcome, steps = member.outcome, member.episode.rewards
    if isinstance(outcome, Scored) and outcome.turns:
        return outcome.turns
    number = _num_calls(member)
    if len(steps) == number and math.isclose(sum(steps), reward, rel_tol=1e-9, abs_tol=1e-9):
        return steps
    return (*(0.0,) * (number - 1), reward) if number else ()


def _num_calls(member: Trajectory) -> int:
    return sum(len(segment.calls) for segment in member.graph.segments)


def _size(member: Trajectory, reward: float) -> float:
    """Largest number that an advantage may meet."""
    return max(abs(reward), sum(map(abs, turn_rewards(member, reward))))
