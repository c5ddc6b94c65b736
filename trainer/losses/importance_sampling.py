"""REINFORCE with importance sampling: nothing is clipped, and the variance has no bound that helps.

    loss_n = - r_n * A_n

R. Williams, Machine Learning 8, 1992. With `max_ratio` C the weight is truncated, as a constant, at C: a
token beyond it has a bounded pull but still one (arXiv 2506.13585 calls that CISPO).
"""

import math
from dataclasses import dataclass

from ..objective.terms import (
    MAX_LOG_RATIO,
    Level,
    LossTerms,
    TokenTerms,
    bounded_exp,
    check_level,
    log_ratio,
    watched,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportanceSampling:
    max_ratio: float | None = None
    level: Level = "token"

    def __post_init__(self) -> None:
        check_level(self.level)
        if self.max_ratio is not None and self.max_ratio < 1:
            raise ValueError(f"{self}: max_ratio must be at least 1")

    def __call__(self, tokens: TokenTerms) -> LossTerms:
        gap_N = log_ratio(tokens, self.level)
        bound = MAX_LOG_RATIO if self.max_ratio is None else math.log(self.max_ratio)
        over_N = (gap_N.detach() - bound).clamp(min=0.0)
        loss_N = -(gap_N - over_N).exp() * tokens.advantages_N  # min(r, C), with the gradient of C * log pi
        return watched(tokens, bounded_exp(gap_N), loss_N=loss_N, clip_fraction=over_N > 0)
