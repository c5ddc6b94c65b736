"""Discounted returns of turns: each answer is paid for what came after it (REINFORCE, Sutton & Barto, 13.3).

    G_ik = sum(gamma^(j - k) * r_ij, j >= k)
    A_ik = G_ik - b                                 b: mean of the siblings' G over all of their turns

With `baseline: none`, b is 0; with `normalise`, A is divided by the std of those G, plus 1e-4.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal

from ._graded import Group, Value, centred, returns_of, scaled


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
        flat = list(chain.from_iterable(returns))
        if not flat:
            return [() for _ in group]
        baseline = math.fsum(each / len(flat) for each in flat) if self.baseline == "group" else 0.0
        differences = centred(flat, baseline)
        rest = iter(scaled(differences, flat) if self.normalise else differences)
        return [tuple(next(rest) for _ in each) for each in returns]
