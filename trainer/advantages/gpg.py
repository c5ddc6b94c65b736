"""Group policy gradient: a centred reward for a loss without ratio or clip (arXiv 2504.02546).

    A_i = alpha * (r_i - mean(r)) / F              F: 1, or std(r) + 1e-4 with `normalise`

alpha = groups / groups that teach makes up for groups that count in the normaliser and teach nothing. Where
those are dropped (`GroupPolicy.zero_variance`, the default) the normaliser knows already, so alpha is 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ._graded import Group, Value, by_group, centred, rewards_of, scaled


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpg:
    normalise: bool = False
    rescale: bool = False
    """Multiply by alpha; right only with `zero_variance: keep`."""

    @property
    def needs_all_groups(self) -> bool:
        return self.rescale

    def __call__(self, groups: Sequence[Group]) -> list[list[Value]]:
        teaching = sum(any(centred(rewards_of(group))) for group in groups)
        alpha = len(groups) / teaching if self.rescale and teaching else 1.0
        return by_group(groups, lambda group: [alpha * each for each in self._one(group)])

    def _one(self, group: Group) -> list[float]:
        rewards = rewards_of(group)
        differences = centred(rewards)
        return scaled(differences, rewards) if self.normalise else differences
