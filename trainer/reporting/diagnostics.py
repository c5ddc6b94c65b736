"""How far the trained policy is from the one that sampled: over all tokens, by lag and by turn."""

import math
from collections.abc import Iterable, Sequence
from statistics import fmean

from ..batches.rows import Row

LAST = 8
"""Turns and lags from here on are counted together."""


def off_policy_metrics(
    rows: Sequence[Row], logprobs: Sequence[Sequence[float]], version: int
) -> dict[str, float]:
    """From [rows][T] learner logprobs, nats; `version` is the learner's at the start of the step.

    `ess` is the effective sample size as a share, (sum w)^2 / (n * sum w^2) with w = pi / mu: 1.0 on policy.
    """
    gaps: list[float] = []
    lags: list[int] = []
    turns: list[int] = []
    for row, found in zip(rows, logprobs, strict=True):
        for at in row.trained:
            gaps.append(found[at] - row.tokens.logprobs[at])
            lags.append(max(version - row.tokens.versions[at], 0))
            turns.append(row.turns[at])
    if not gaps:
        return {}
    return {
        "ess": _ess(gaps),
        "staleness": fmean(lags),
        "staleness_max": float(max(lags)),
        **_means("lag", lags, gaps),
        **_means("turn", turns, gaps),
    }


def _ess(gaps: Sequence[float]) -> float:
    """Scaled by the largest weight, so that nothing overflows."""
    largest = max(gaps)
    if not math.isfinite(largest):
        return math.nan
    weights = [math.exp(gap - largest) for gap in gaps]
    return math.fsum(weights) ** 2 / (len(weights) * math.fsum(weight * weight for weight in weights))


def _means(name: str, places: Iterable[int], gaps: Sequence[float]) -> dict[str, float]:
    found: dict[int, list[float]] = {}
    for place, gap in zip(places, gaps, strict=True):
        found.setdefault(min(place, LAST), []).append(abs(gap))
    return {
        f"abs_log_ratio_{name}_{place}{'_on' if place == LAST else ''}": math.fsum(each) / len(each)
        for place, each in sorted(found.items())
    }
