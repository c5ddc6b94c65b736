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
        total = sum(member.num_tokens for member in group)
        if len(group) < 2 or not total:
            raise ValueError(f"{len(group)} episode(s) with {total} tokens; a baseline needs 2 with tokens")
        baseline = math.fsum(member.reward * member.num_tokens / total for member in group)
        found = centred(rewards, baseline)
        return scaled(found, rewards) if self.normalise else found
