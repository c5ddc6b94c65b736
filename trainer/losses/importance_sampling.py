"""REINFORCE with importance sampling: nothing is clipped, and the variance has no bound.

    loss_n = - r_n * A_n

R. Williams, Machine Learning 8, 1992. With `max_ratio` C the weight is truncated, as a constant, at C: a
token beyond it has a bounded pull but still one (arXiv 2506.13585 calls that CISPO).
"""

import math
from dataclasses import dataclass

import torch

from ..objective.terms import (
    Level,
    LossTerms,
    TokenTerms,
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
        over_N = torch.zeros_like(gap_N)
        if self.max_ratio is not None:  # value min(r, C), and the gradient of sg(min(r, C)) * log pi
            over_N = (gap_N.detach() - math.log(self.max_ratio)).clamp(min=0.0)
        loss_N = -(gap_N - over_N).exp() * tokens.advantages_N
        return watched(tokens, gap_N.exp(), loss_N=loss_N, clip_fraction=over_N > 0)
