"""What an advantage reads and returns, and the few statistics that several of them share."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

STD_FLOOR = 1e-4
"""Added to a standard deviation, as TRL does: it bounds the advantage of near-equal siblings."""
ROUNDING = 1e-9
"""Rewards that differ by less, of the largest or of 1, are equal: sums of the same parts in another order."""
MAX_REWARD = 1e30
"""Of larger ones, advantages and losses overflow."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Graded:
    """An episode that has a number, as an advantage sees it."""

    reward: float
    turns: tuple[float, ...] = ()
    """A reward for each of the policy's answers."""
    num_tokens: int = 1
    """Sampled tokens, over all segments."""


Group = Sequence[Graded]
Value = float | tuple[float, ...]
"""One advantage for the whole episode, or one for each of its turns."""


class Advantage(Protocol):
    """Every group of the step at once: some statistics are over all of them.

    A class may have these attributes, which a recipe is checked by: `min_size`, members that a group needs,
    where that is not 2; `min_reward`, the smallest that it can work with; `needs_all_groups`, that groups
    that teach nothing must not be dropped; `thresholds`, rewards from which on an episode passes, None being
    the 1.0 that is the maximum of most environments.
    """

    def __call__(self, groups: Sequence[Group]) -> list[list[Value]]: ...


def centred(rewards: Sequence[float], baseline: float | None = None) -> list[float]:
    """Differences to the mean, or to `baseline`; of rewards that are equal, but for rounding, exactly 0.

    >>> centred([1.0, 0.0]), centred([0.1 + 0.2, 0.3])
    ([0.5, -0.5], [0.0, 0.0])
    """
    if not all(abs(reward) <= MAX_REWARD for reward in rewards):
        raise ValueError(
            f"rewards {tuple(rewards)} are not all finite and within {MAX_REWARD:g}; leave those members out"
        )
    if baseline is None:
        if len(rewards) < 2:
            raise ValueError(f"{len(rewards)} reward(s) in the group; a baseline needs 2 or more")
        baseline = math.fsum(rewards) / len(rewards)
    if are_equal((*rewards, baseline)):
        return [0.0] * len(rewards)
    return [reward - baseline for reward in rewards]


def are_equal(values: Sequence[float]) -> bool:
    """Up to `ROUNDING`."""
    return max(values) - min(values) <= ROUNDING * max(1.0, *map(abs, values))


def scaled(differences: Sequence[float], rewards: Sequence[float]) -> list[float]:
    """Differences over the sample standard deviation (n - 1) of the rewards.

    >>> scaled([0.0, 0.0], [3.0, 3.0])
    [0.0, 0.0]
    """
    if len(rewards) < 2 or min(rewards) == max(rewards):
        return list(differences)
    scale = 1 / (statistics.stdev(rewards) + STD_FLOOR)
    return [difference * scale for difference in differences]


def by_group(groups: Sequence[Group], one: Callable[[Group], Sequence[float]]) -> list[list[Value]]:
    """An algorithm that looks at one group at a time."""
    return [list(one(group)) for group in groups]


def rewards_of(group: Group) -> list[float]:
    return [member.reward for member in group]


def returns_of(member: Graded, gamma: float) -> list[float]:
    """What each turn and the turns after it earn: G_k = r_k + gamma * G_(k+1).

    >>> returns_of(Graded(reward=3.0, turns=(1.0, 0.0, 2.0)), gamma=0.5)
    [1.5, 1.0, 2.0]
    """
    found: list[float] = []
    later = 0.0
    for reward in reversed(member.turns):
        later = reward + gamma * later
        found.append(later)
    return found[::-1]
