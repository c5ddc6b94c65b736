"""Off-policy correction: the engine sampled, not the learner before the step, whatever the reason (other
kernels, other precision, a lag of versions). Each token's loss is weighed by a constant:

    w = old / mu          of a token; of a turn or an episode the product over it, or its geometric mean
    truncate  clamp(w, low, high)         truncated importance sampling, TIS: bounded variance, little bias
    mask      w where low <= w <= high, else 0

token, truncate, 2              TIS (fengyao.notion.site/off-policy-rl); the default
token, mask, 0.5 .. 5           IcePop (ringtech.notion.site/icepop)
episode, truncate or mask, 2    sequence TIS and masked importance sampling (yingru.notion.site, "When Speed
                                Kills Stability"): the unbiased weight, before it is bounded
geometric, mask, 0.99 .. 1.01   the same by the geometric mean, which does not grow with length

Only with old logprobs: without them ratios are taken to the engine itself, and there is nothing left over.
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from .terms import Level, TokenTerms, bounded_exp, mean_over, sum_over


@dataclass(frozen=True, kw_only=True, slots=True)
class Correction:
    level: Literal["token", "turn", "episode", "geometric"] = "token"
    """"geometric" is the geometric mean over the episode."""
    kind: Literal["truncate", "mask"] = "truncate"
    low: float = 0.0
    high: float = 2.0

    def __post_init__(self) -> None:
        levels, kinds = ("token", "turn", "episode", "geometric"), ("truncate", "mask")
        if self.level not in levels or self.kind not in kinds:
            raise ValueError(f"{self}: level is one of {levels}, kind one of {kinds}")
        if not 0 <= self.low <= 1 <= self.high:
            raise ValueError(f"{self}: needs 0 <= low <= 1 <= high, so that exact tokens weigh 1")

    @property
    def reach(self) -> Level:
        """How far a token's weight looks."""
        return "episode" if self.level == "geometric" else self.level

    def __call__(self, tokens: TokenTerms) -> Tensor:
        """[N] weights, without a gradient."""
        gap_N = (tokens.anchor_logprobs_N - tokens.engine_logprobs_N).detach()
        if self.level == "geometric":
            gap_N = mean_over(gap_N, tokens.index("episode"))
        else:
            gap_N = sum_over(gap_N, tokens.index(self.level))
        weight_N = bounded_exp(gap_N)
        if self.kind == "truncate":
            return weight_N.clamp(self.low, self.high)
        is_kept_N = (weight_N >= self.low) & (gap_N.exp() <= self.high)
        return weight_N.masked_fill(~is_kept_N, 0.0)


TOKEN_TIS = Correction()
"""What the learner does unless it is told otherwise."""
