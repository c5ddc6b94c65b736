"""REINFORCE++: no group at all, the batch is the baseline (arXiv 2501.03262).

    A_i = (r_i - mean(R)) / (std(R) + 1e-4)        R: every episode of the step

Over episodes; implementations that whiten over tokens let long episodes move the baseline. Groups whose
members are all equal still teach. A run nevertheless samples every prompt twice or more: `grpo.group_size`
and `GroupPolicy.min_size` are at least 2, and a member that was left alone is dropped here too. The paper's
KL in the reward is `kl_kind: k1` in a recipe.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from ._graded import Group, Value, centred, rewards_of, scaled


@dataclass(frozen=True, kw_only=True, slots=True)
class ReinforcePp:
    normalise: bool = True

    def __call__(self, groups: Sequence[Group]) -> list[list[Value]]:
        rewards = list(chain.from_iterable(map(rewards_of, groups)))
        if len(rewards) < 2:
            return [[0.0 for _ in group] for group in groups]
        differences = centred(rewards)
        rest = iter(scaled(differences, rewards) if self.normalise else differences)
        return [[next(rest) for _ in group] for group in groups]
