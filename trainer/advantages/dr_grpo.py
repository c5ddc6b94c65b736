"""GRPO done right: no division, hence no bias by a task's difficulty (arXiv 2503.20783).

A_i = r_i - mean(r)
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ._graded import Group, Value, by_group, centred, rewards_of


@dataclass(frozen=True, kw_only=True, slots=True)
class DrGrpo:
    def __call__(self, groups: Sequence[Group]) -> list[list[Value]]:
        return by_group(groups, lambda group: centred(rewards_of(group)))
