"""REINFORCE with importance sampling: nothing is clipped, and the variance has no bound.

    loss_n = - r_n * A_n

R. Williams, Machine Learning 8, 1992. With `max_ratio` C the weight is truncated, as a constant, at C: a
token beyond it has a bounded pull but still one (arXiv 2506.13585 calls that CISPO).
"""

from dataclasses import dataclass

from ..terms import Level, LossTerms, TokenTerms, check_level, ratio, watched


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportanceSampling:
    max_ratio: float | None = None
    level: Level = "token"

    def __post_init__(self) -> None:
        check_level(self.level)
        if self.max_ratio is not None and self.max_ratio < 1:
            raise ValueError(f"{self}: max_ratio must be at least 1")

    def __call__(self, tokens: TokenTerms) -> LossTerms:
        ratio_N = ratio(tokens, self.level)
        weight_N = ratio_N
        if self.max_ratio is not None:  # the same gradient as sg(min(r, C)) * log pi, with a value near r
            weight_N = ratio_N * (self.max_ratio / ratio_N.detach()).clamp(max=1.0)
        is_capped_N = weight_N < ratio_N
        return watched(tokens, ratio_N, loss_N=-weight_N * tokens.advantages_N, clip_fraction=is_capped_N)
