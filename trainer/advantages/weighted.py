"""Several algorithms at once, by weights: credit of the whole episode and of its turns.

    A_ik = sum(w_a * A^a_ik)                       a value of the whole episode counts for each of its turns

In a recipe: {advantage: weighted, advantage_options: {parts: {grpo: 1.0, turn_groups: 0.5},
options: {turn_groups: {gamma: 0.9}}}}.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from ._graded import Advantage, Graded, Group, Value


@dataclass(frozen=True, kw_only=True, slots=True)
class Weighted:
    parts: Mapping[str, float]
    """Weights by name."""
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])
    """Options by name."""

    def __post_init__(self) -> None:
        if not self.parts or not set(self.options) <= set(self.parts):
            raise ValueError(
                f"weighted: parts are {sorted(self.parts)}, options {sorted(self.options)}; "
                "it needs a weight for at least one algorithm, and for each that has options"
            )
        self.loaded()

    @property
    def min_size(self) -> int:
        return max(getattr(each, "min_size", 2) for each, _ in self.loaded())

    @property
    def min_reward(self) -> float:
        return max(getattr(each, "min_reward", -math.inf) for each, _ in self.loaded())

    @property
    def needs_all_groups(self) -> bool:
        return any(getattr(each, "needs_all_groups", False) for each, _ in self.loaded())

    @property
    def thresholds(self) -> tuple[float | None, ...]:
        return tuple(chain.from_iterable(getattr(each, "thresholds", ()) for each, _ in self.loaded()))

    def loaded(self) -> list[tuple[Advantage, float]]:
        """The parts, with their weights."""
        from . import load_advantage  # the registry lists this file

        return [
            (load_advantage(name, **self.options.get(name, {})), weight)
            for name, weight in self.parts.items()
        ]

    def __call__(self, groups: Sequence[Group]) -> list[list[Value]]:
        found = [(each(groups), weight) for each, weight in self.loaded()]
        return [
            [
                _sum(member, [(values[at][place], weight) for values, weight in found])
                for place, member in enumerate(group)
            ]
            for at, group in enumerate(groups)
        ]


def _sum(member: Graded, parts: Sequence[tuple[Value, float]]) -> Value:
    if not any(isinstance(value, tuple) for value, _ in parts):
        return sum(value * weight for value, weight in parts if not isinstance(value, tuple))
    return tuple(
        sum((value[turn] if isinstance(value, tuple) else value) * weight for value, weight in parts)
        for turn in range(len(member.turns))
    )
