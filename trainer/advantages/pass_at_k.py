"""Pass@k training, in closed form (arXiv 2508.10751, section 2.4): what counts is that one of k passes.

    n: siblings, m: those that fail                R = 1 - C(m, k) / C(n, k)
    passed  A = (1 - R) / S                        S = sqrt(R * (1 - R))
    failed  A = (1 - R - C(m - 1, k - 1) / C(n - 1, k - 1)) / S

Passed means a reward of at least `threshold`. Zero where any k of the group have one that passes, or none
has.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ._graded import Group, Value, by_group, centred, rewards_of


@dataclass(frozen=True, kw_only=True, slots=True)
class PassAtK:
    k: int = 4
    threshold: float | None = None
    """None: 1.0. A recipe whose environment has another maximum must name it."""
    normalise: bool = True
    """Divide by S."""

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"pass_at_k: k is {self.k}; it must be at least 1")

    @property
    def thresholds(self) -> tuple[float | None, ...]:
        return (self.threshold,)

    @property
    def min_size(self) -> int:
        return max(self.k, 2)

    def __call__(self, groups: Sequence[Group]) -> list[list[Value]]:
        return by_group(groups, self._one)

    def _one(self, group: Group) -> list[float]:
        size = len(group)
        if size < self.min_size:
            raise ValueError(f"pass_at_k: a group of {size} for k={self.k}; it needs {self.min_size} members")
        centred(rewards_of(group))  # refuses what is no number
        threshold = 1.0 if self.threshold is None else self.threshold
        has_passed = [member.reward >= threshold for member in group]
        failed = size - sum(has_passed)
        pass_rate = 1 - math.comb(failed, self.k) / math.comb(size, self.k)
        if pass_rate in (0.0, 1.0):
            return [0.0] * size
        lost = math.comb(failed - 1, self.k - 1) / math.comb(size - 1, self.k - 1)
        scale = 1 / math.sqrt(pass_rate * (1 - pass_rate)) if self.normalise else 1.0
        return [(1 - pass_rate - (0.0 if passed else lost)) * scale for passed in has_passed]
