"""From groups to credit: who is trained on, with which advantage, and who is not and why."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ..agents.trajectory import Group
from ..envs import Scored
from .advantages import Accepted, AdvantageKind, GroupPolicy, Rejection, credit
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
    """Advantages within each group, by the recipe's rules. `late`: as `GroupPolicy.late`."""
    if section.shuffle_rewards:
        groups = _shuffled(groups, random.Random(f"{seed}/{step}/shuffle"))
    policy = GroupPolicy(min_size=section.min_group, truncated=section.truncated, late=late)
    credits = [credit(group, AdvantageKind(section.advantage), policy) for group in groups]
    return Judgement(
        accepted=tuple(each for found in credits for each in found.accepted),
        rejected=tuple(each for found in credits for each in found.rejected),
    )


def _shuffled(groups: Sequence[Group], order: random.Random) -> list[Group]:
    """The same rewards on other episodes: nothing is left to learn."""
    outcomes = [m.outcome for group in groups for m in group.members if isinstance(m.outcome, Scored)]
    order.shuffle(outcomes)
    swapped = iter(outcomes)
    return [
        replace(
            group,
            members=tuple(
                replace(m, outcome=next(swapped)) if isinstance(m.outcome, Scored) else m
                for m in group.members
            ),
        )
        for group in groups
    ]
