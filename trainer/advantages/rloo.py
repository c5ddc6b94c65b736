"""REINFORCE with the mean of the others as baseline, which is unbiased (arXiv 2402.14740).

    A_i = r_i - mean(r_j, j != i) = n / (n - 1) * (r_i - mean(r))

With `normalise` it is divided by std(r) + 1e-4 as in GRPO.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ._graded import Group, Value, by_group, centred, rewards_of, scaled


@dataclass(frozen=True, kw_only=True, slots=True)
class Rloo:
    normalise: bool = False

    def __call__(self, groups: Sequence[Group]) -> list[list[Value]]:
        return by_group(groups, self._one)

    def _one(self, group: Group) -> list[float]:
        rewards, size = rewards_of(group), len(group)
        found = [each * (size / (size - 1)) for each in centred(rewards)]
        return scaled(found, rewards) if self.normalise else found
