"""Maximum-likelihood RL: the gradient of log(pass rate) rather than of the pass rate (arXiv 2602.02710).

    A_i = (r_i - mean(r)) / mean(r)                0 where nothing passes

Rewards are 0 or more. A task that is passed once in n tries weighs n times as much as one always passed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ._graded import Group, Value, by_group, centred, rewards_of


@dataclass(frozen=True, kw_only=True, slots=True)
class MaxRl:
    normalise: bool = True
    """Divide by the mean."""
    min_reward: ClassVar[float] = 0.0

    def __call__(self, groups: Sequence[Group]) -> list[list[Value]]:
        return by_group(groups, self._one)

    def _one(self, group: Group) -> list[float]:
        rewards = rewards_of(group)
        if min(rewards) < 0:
            raise ValueError(f"max_rl: a reward of {min(rewards):g}; a likelihood needs rewards of 0 or more")
        differences = centred(rewards)
        mean = math.fsum(rewards) / len(rewards)
        return [each / mean for each in differences] if self.normalise and mean else differences
