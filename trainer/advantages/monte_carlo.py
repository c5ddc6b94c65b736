"""Discounted returns of turns: each answer is paid for what came after it (REINFORCE, Sutton & Barto, 13.3).

    G_ik = sum(gamma^(j - k) * r_ij, j >= k)
    A_ik = G_ik - b                                 b = mean_i(mean_k(G_ik)), over the siblings

The source has no siblings; the baseline is ours. Each episode weighs the same in it, however many turns it
has: over turns, long failures would be punished less a turn than short ones. With `baseline: none`, b is 0;
with `normalise`, A is divided by sqrt(sum_i(mean_k((G_ik - b)^2)) / (n - 1)) + 1e-4, n being the siblings.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import fmean
from typing import Literal

from ._graded import STD_FLOOR, Group, Value, centred, returns_of


@dataclass(frozen=True, kw_only=True, slots=True)
class MonteCarlo:
    gamma: float = 1.0
    baseline: Literal["group", "none"] = "group"
    normalise: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.gamma <= 1:
            raise ValueError(f"monte_carlo: gamma is {self.gamma}; it must be in [0, 1]")
        if self.baseline not in ("group", "none"):
            raise ValueError(f"monte_carlo: baseline is {self.baseline!r}; it must be 'group' or 'none'")

    def __call__(self, groups: Sequence[Group]) -> list[list[Value]]:
        return [self._one(group) for group in groups]

    def _one(self, group: Group) -> list[Value]:
        returns = [returns_of(member, self.gamma) for member in group]
        means = [fmean(each) for each in returns if each]
        if not means:
            return [() for _ in group]
        baseline = fmean(means) if self.baseline == "group" else 0.0
        rest = iter(centred(list(chain.from_iterable(returns)), baseline))
        differences = [tuple(next(rest) for _ in each) for each in returns]
        scale = _scale(differences) if self.normalise else 1.0
        return [tuple(scale * each for each in turns) for turns in differences]


def _scale(differences: Sequence[Sequence[float]]) -> float:
    """1 / (std + 1e-4), where each episode weighs the same; 1 for a single one, and where all is 0."""
    squares = [fmean(each * each for each in turns) for turns in differences if turns]
    if len(squares) < 2 or not any(squares):
        return 1.0
    return 1 / (math.sqrt(math.fsum(squares) / (len(squares) - 1)) + STD_FLOOR)
