"""Group-relative policy optimisation (DeepSeekMath, arXiv 2402.03300).

    A_i = (r_i - mean(r)) / (std(r) + 1e-4)        over the siblings; the std is the sample one (n - 1)

Without `normalise` it is Dr. GRPO's. The division makes nearly solved and nearly hopeless tasks weigh more.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ._graded import Group, Value, by_group, centred, rewards_of, scaled


@dataclass(frozen=True, kw_only=True, slots=True)
class Grpo:
    normalise: bool = True

    def __call__(self, groups: Sequence[Group]) -> list[list[Value]]:
        return by_group(groups, self._one)

    def _one(self, group: Group) -> list[float]:
        rewards = rewards_of(group)
        differences = centred(rewards)
        return scaled(differences, rewards) if self.normalise else differences
