"""Evaluation: how good a policy is, how sure that is, and what had no number."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import zip_longest
from statistics import fmean, variance

from ..envs import Scored, TaskSet
from .collector import Collector, GroupRequest
from .engine import PolicyVersion
from .trajectory import Group, Trajectory

Z95 = 1.959963984540054
"""Two-sided 95 % quantile of the normal distribution."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A mean with its 95 % interval, clustered by task."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """One policy on one task set. Rates are over graded episodes; `bounds` say what the rest could do."""

    split: str
    num_tasks: int
    num_episodes: int
    outcomes: dict[str, int]
    """Episodes by outcome: "scored", "ungraded", "failed"."""
    stops: dict[str, int]
    """Episodes by stop reason."""
    reward: Estimate | None
    """None when nothing could be graded."""
    bounds: tuple[float, float] | None
    """Mean reward with every episode without a number at the floor, and at the maximum."""
    pass_at: dict[int, Estimate] = field(default_factory=dict[int, Estimate])
    """k -> chance that at least one of k samples passes (Chen et al. 2021, unbiased)."""
    pass_hat: dict[int, Estimate] = field(default_factory=dict[int, Estimate])
    """k -> chance that all of k samples pass (Yao et al. 2024, pass^k)."""
    components: dict[str, float] = field(default_factory=dict[str, float])
    """The graders' named parts: the mean of each over the episodes that have it."""
    turn_rewards: tuple[float, ...] = ()
    """Mean reward of the first, second, ... answer, over the episodes whose grader told turns apart."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Passing:
    """What counts as a success, and out of how many samples."""

    threshold: float | None = None
    """The reward from which an episode passes; None: the environment's maximum."""
    ks: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    """The k of pass@k and pass^k, besides 1; those over the samples of a task are left out."""


async def evaluate(
    collector: Collector,
    tasks: TaskSet,
    *,
    split: str,
    version: PolicyVersion,
    samples: int = 1,
    reward_range: tuple[float, float] = (0.0, 1.0),
    passing: Passing = Passing(),
    on_group: Callable[[Group], None] | None = None,
) -> Evaluation:
    """Play every task `samples` times on `version`. What the run file holds is not played again."""
    requests = [
        GroupRequest(split=split, epoch=0, task=task, num_samples=samples, version=version) for task in tasks
    ]
    groups: list[Group] = []
    async with aclosing(collector.stream(requests)) as stream:
        async for _, group in stream:
            groups.append(group)
            if on_group is not None:
                on_group(group)
    return summarize(split, groups, reward_range, passing)


def summarize(
    split: str, groups: Sequence[Group], reward_range: tuple[float, float], passing: Passing = Passing()
) -> Evaluation:
    """The evaluation of finished groups."""
    floor, maximum = reward_range
    enough = maximum if passing.threshold is None else passing.threshold
    members = [member for group in groups for member in group.members]
    graded = [[m.reward for m in group.members if m.reward is not None] for group in groups]
    rewards = [reward for group in graded for reward in group]
    missing = len(members) - len(rewards)
    graded = [group for group in graded if group]
    passes = [(sum(is_solved(each, enough) for each in group), len(group)) for group in graded]
    floor, maximum = min([floor, *rewards]), max([maximum, *rewards])
    sizes = [n for _, n in passes]
    ks = [k for k in sorted({1, *passing.ks}) if sizes and k <= min(sizes)]
    return Evaluation(
        split=split,
        num_tasks=len(groups),
        num_episodes=len(members),
        outcomes=dict(Counter(member.outcome.kind for member in members)),
        stops=dict(Counter(member.episode.stop.value for member in members)),
        reward=mean_interval(list(map(fmean, graded)), (floor, maximum)) if graded else None,
        bounds=(
            (
                (sum(rewards) + missing * floor) / len(members),
                (sum(rewards) + missing * maximum) / len(members),
            )
            if members
            else None
        ),
        pass_at={k: rate_interval([pass_at_k(n, c, k) for c, n in passes]) for k in ks},
        pass_hat={k: rate_interval([pass_hat_k(n, c, k) for c, n in passes]) for k in ks},
        components=component_means(members),
        turn_rewards=_turn_rewards(members),
    )


def component_means(members: Sequence[Trajectory]) -> dict[str, float]:
    """The graders' named parts: the mean of each over the episodes that have it."""
    parts: defaultdict[str, list[float]] = defaultdict(list)
    for member in members:
        if isinstance(member.outcome, Scored):
            for name, value in member.outcome.components.items():
                parts[name].append(value)
    return {name: fmean(values) for name, values in sorted(parts.items())}


def _turn_rewards(members: Sequence[Trajectory]) -> tuple[float, ...]:
    turns = [member.outcome.turns for member in members if isinstance(member.outcome, Scored)]
    columns = zip_longest(*(each for each in turns if each))
    return tuple(fmean(value for value in column if value is not None) for column in columns)


def is_solved(reward: float, maximum: float) -> bool:
    """An episode passes with the environment's maximum; parts that add up to it may miss it by rounding.

    >>> is_solved(0.7 + 0.2 + 0.1, 1.0)
    True
    """
    return reward >= maximum - 1e-9


def pass_at_k(n: int, c: int, k: int) -> float:
    """Unbiased chance that one of k passes, from c passes in n samples.

    >>> pass_at_k(4, 1, 2)
    0.5
    """
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def pass_hat_k(n: int, c: int, k: int) -> float:
    """Unbiased chance that all of k pass, from c passes in n samples.

    >>> pass_hat_k(4, 2, 1)
    0.5
    """
    return math.comb(c, k) / math.comb(n, k)


def mean_interval(task_means: Sequence[float], reward_range: tuple[float, float]) -> Estimate:
    """Mean over tasks; the tasks are the clusters, so siblings do not count as independent.

    Student's t interval over the tasks and two more, one at each end of the range, as Agresti and Coull
    (The American Statistician 52, 1998) add successes and failures to a rate. So it has a width also where
    every task agrees, and one task alone says nothing: the interval is the whole range. The price: it is as
    wide as the declared range is, over the number of tasks. A range without an end adds nothing.
    """
    floor, maximum = reward_range
    if math.isfinite(maximum - floor):
        seen = [*task_means, floor, maximum]
    elif len(task_means) > 1:
        seen = list(task_means)
    else:
        return Estimate(value=task_means[0], low=floor, high=maximum)
    mean, centre = fmean(task_means), fmean(seen)
    half = _t95(len(seen) - 1) * _standard_error(seen)
    low, high = max(floor, centre - half), min(maximum, centre + half)
    return Estimate(value=mean, low=min(mean, low), high=max(mean, high))


def rate_interval(task_rates: Sequence[float]) -> Estimate:
    """Mean of rates in [0, 1] with Wilson's interval at the effective sample size of the clustering.

    It has a width also where every task agrees, which a normal interval has not.
    """
    rate, error = fmean(task_rates), _standard_error(task_rates)
    n = rate * (1 - rate) / error**2 if error > 0 and 0 < rate < 1 else len(task_rates)
    centre = (rate + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * math.sqrt(rate * (1 - rate) / n + Z95**2 / (4 * n**2))
    return Estimate(
        value=rate, low=max(0.0, min(rate, centre - half)), high=min(1.0, max(rate, centre + half))
    )


def _t95(freedom: int) -> float:
    """Two-sided 95 % quantile of Student's t (Abramowitz and Stegun 26.7.5); 3 % low at 2 degrees of freedom,
    1 % at 3.
    """
    z = Z95
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )


def _standard_error(values: Sequence[float]) -> float:
    return math.sqrt(variance(values) / len(values)) if len(values) > 1 else 0.0
