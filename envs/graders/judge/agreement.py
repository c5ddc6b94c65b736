"""How far two raters agree beyond chance."""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

NUM_RESAMPLES = 1000
Pairs = Sequence[tuple[int, int]]
"""(one rater's category, the other's); categories are numbers, in order where they have one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """Of a judge with the people who labelled."""

    kappa: float
    low: float
    high: float
    """95 % interval by bootstrap over the rows."""
    share: float
    """Of rows on which both say the same."""
    num_rows: int


def cohen_kappa(pairs: Pairs, *, is_ordered: bool = False) -> float | None:
    """1 for full agreement, 0 for that of chance; None where both have one category, which says nothing.

    With `is_ordered`, a difference counts by its square: 1 against 5 is worse than 4 against 5.

    >>> cohen_kappa([(0, 0), (1, 1), (0, 1), (1, 1)])
    0.5
    """

    def distance(one: int, other: int) -> float:
        return float((one - other) ** 2) if is_ordered else float(one != other)

    ours, theirs = Counter(one for one, _ in pairs), Counter(other for _, other in pairs)
    expected = sum(ours[one] * theirs[other] * distance(one, other) for one in ours for other in theirs)
    if not expected:
        return None
    observed = sum(distance(*pair) for pair in pairs)
    return 1.0 - observed * len(pairs) / expected


def agreement(pairs: Pairs, *, is_ordered: bool) -> Agreement | None:
    """None where kappa has no value: too few rows, or one category only."""
    kappa = cohen_kappa(pairs, is_ordered=is_ordered) if pairs else None
    if kappa is None:
        return None
    low, high = _interval(pairs, lambda sample: cohen_kappa(sample, is_ordered=is_ordered))
    share = sum(one == other for one, other in pairs) / len(pairs)
    return Agreement(kappa=kappa, low=low, high=high, share=share, num_rows=len(pairs))


def _interval(pairs: Pairs, measure: Callable[[Pairs], float | None]) -> tuple[float, float]:
    rng = random.Random(0)
    drawn = (measure(rng.choices(pairs, k=len(pairs))) for _ in range(NUM_RESAMPLES))
    found = sorted(value for value in drawn if value is not None)
    return found[int(0.025 * len(found))], found[int(0.975 * (len(found) - 1))]
