"""From groups to credit: who is trained on, with which advantage, and who is not and why."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ..agents.trajectory import Group, Trajectory
from ..envs import Scored
from .advantages import Accepted, GroupPolicy, Rejection, credit_step, load_advantage
from .overlong import Overlong
from .recipe import GrpoSection


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """Every episode of a step, on one side or the other."""

    accepted: tuple[Accepted, ...]
    rejected: tuple[Rejection, ...]

    @property
    def rejected_rows(self) -> list[list[object]]:
        """For the run file: [task, epoch, sample, reason, detail]."""
        return [
            [each.key.task_id, each.key.epoch, each.key.sample, each.reason.value, each.detail]
            for each in self.rejected
        ]


def judge(
    groups: Sequence[Group],
    section: GrpoSection,
    *,
    seed: int,
    step: int,
    late: Literal["keep", "drop"] = "keep",
) -> Judgement:
    """The advantage of each episode, by the recipe's rules. `late`: as `GroupPolicy.late`."""
    if (overlong := overlong_of(section)) is not None:
        groups = overlong.shaped(groups)
    if section.shuffle_rewards:
        groups = _shuffled(groups, random.Random(f"{seed}/{step}/shuffle"))
    policy = GroupPolicy(
        refill=section.refill,
        min_size=section.min_group,
        lost=section.lost,
        truncated=section.truncated,
        late=late,
        zero_variance=section.zero_variance,
    )
    found = credit_step(groups, load_advantage(section.advantage, **section.advantage_options), policy)
    return Judgement(accepted=found.accepted, rejected=found.rejected)


def overlong_of(section: GrpoSection) -> Overlong | None:
    """What the recipe has episodes pay for their length."""
    return None if section.overlong is None else Overlong(**section.overlong.model_dump())


def _shuffled(groups: Sequence[Group], order: random.Random) -> list[Group]:
    """The same rewards on other episodes: nothing is left to learn. Each falls on the last turn: what other
    turns earned says nothing of an episode of another length."""
    rewards = [m.reward for group in groups for m in group.members if m.reward is not None]
    order.shuffle(rewards)
    swapped = iter(rewards)
    return [
        replace(group, members=tuple(_with_reward(m, swapped) for m in group.members)) for group in groups
    ]


def _with_reward(member: Trajectory, rewards: Iterator[float]) -> Trajectory:
    """With the next of some rewards, if it has one."""
    if not isinstance(member.outcome, Scored):
        return member
    reward, number = next(rewards), sum(len(segment.calls) for segment in member.graph.segments)
    turns = (*(0.0,) * (number - 1), reward) if number else ()
    return replace(member, outcome=replace(member.outcome, reward=reward, turns=turns))
