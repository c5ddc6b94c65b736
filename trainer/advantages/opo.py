"""On-policy RL with the baseline of least variance, for gradients that grow with length (arXiv 2505.23585).

b = sum(l_i * r_i) / sum(l_i)                  l_i: sampled tokens of the episode
A_i = r_i - b
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ._graded import Group, Value, by_group, centred, rewards_of, scaled


@dataclass(frozen=True, kw_only=True, slots=True)
class Opo:
    normalise: bool = False
    """Divide by std(r) + 1e-4 as in GRPO; not in the paper."""

    def __call__(self, groups: Sequence[Group]) -> list[list[Value]]:
        return by_group(groups, self._one)

    def _one(self, group: Group) -> list[float]:
        rewards = rewards_of(group)
        if len(group) < 2:
            raise ValueError(f"{len(group)} reward(s) in the group; a baseline needs 2 or more")
        total = sum(member.num_tokens for member in group)
        if not total:
            return [0.0] * len(group)  # there is nothing that could learn
        baseline = math.fsum(member.reward * member.num_tokens / total for member in group)
        found = centred(rewards, baseline)
        return scaled(found, rewards) if self.normalise else found
