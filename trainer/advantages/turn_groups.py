"""Groups of turns: the k-th answer is compared with the siblings' k-th (arXiv 2505.11821).

    G_ik = sum(gamma^(j - k) * r_ij, j >= k)
    A_ik = (G_ik - mean_i(G_ik)) / (std_i(G_ik) + 1e-4)     over the siblings that have a k-th turn

A turn that only one sibling reached has no baseline, and advantage 0. After different first answers the k-th
turns are in different states, so that a good state counts as a good answer; GiGPO (arXiv 2505.10978) compares
turns of the same state only, which needs states that come back.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ._graded import Group, Value, centred, returns_of, scaled


@dataclass(frozen=True, kw_only=True, slots=True)
class TurnGroups:
    gamma: float = 1.0
    """0 pays a turn for its own reward alone."""
    normalise: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.gamma <= 1:
            raise ValueError(f"turn_groups: gamma is {self.gamma}; it must be in [0, 1]")

    def __call__(self, groups: Sequence[Group]) -> list[list[Value]]:
        return [self._one(group) for group in groups]

    def _one(self, group: Group) -> list[Value]:
        returns = [returns_of(member, self.gamma) for member in group]
        columns = [
            iter(self._column([each[turn] for each in returns if turn < len(each)]))
            for turn in range(max(map(len, returns), default=0))
        ]
        return [tuple(next(columns[turn]) for turn in range(len(each))) for each in returns]

    def _column(self, returns: Sequence[float]) -> list[float]:
        if len(returns) < 2:
            return [0.0] * len(returns)
        differences = centred(returns)
        return scaled(differences, returns) if self.normalise else differences
