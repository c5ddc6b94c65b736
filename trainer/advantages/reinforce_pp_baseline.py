"""REINFORCE++ with the group as baseline and the batch as scale (arXiv 2501.03262, section 3.3).

    D_i = r_i - mean(r)                            over the siblings
    A_i = D_i / (std(D) + 1e-4)                    over every episode of the step; its mean is 0 already

One scale for all groups: unlike GRPO's, it favours no task by its difficulty.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from ._graded import Group, Value, centred, rewards_of, scaled


@dataclass(frozen=True, kw_only=True, slots=True)
class ReinforcePpBaseline:
    normalise: bool = True

    def __call__(self, groups: Sequence[Group]) -> list[list[Value]]:
        differences = list(chain.from_iterable(centred(rewards_of(group)) for group in groups))
        rest = iter(scaled(differences, differences) if self.normalise else differences)
        return [[next(rest) for _ in group] for group in groups]
