"""CISPO (MiniMax-M1, arXiv 2506.13585): the weight is clipped, never the gradient of a token.

    loss_n = - sg(min(r_n, max_ratio)) * A_n * log pi_n                  sg: a constant to the gradient

The paper tunes only the upper bound and does not give it; 5 is what ScaleRL (arXiv 2510.13786) found.
"""

from dataclasses import dataclass

from ..objective.terms import (
    Level,
    LossTerms,
    TokenTerms,
    check_level,
    ratio,
    watched,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cispo:
    max_ratio: float = 5.0
    level: Level = "token"

    def __post_init__(self) -> None:
        check_level(self.level)
        if self.max_ratio < 1:
            raise ValueError(f"{self}: max_ratio must be at least 1")

    def __call__(self, tokens: TokenTerms) -> LossTerms:
        ratio_N = ratio(tokens, self.level).detach()
        weight_N = ratio_N.clamp(max=self.max_ratio)
        loss_N = -weight_N * tokens.advantages_N * tokens.logprobs_N
        return watched(tokens, ratio_N, loss_N=loss_N, clip_fraction=ratio_N > self.max_ratio)
