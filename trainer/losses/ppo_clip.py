"""PPO's clipped surrogate for single tokens (arXiv 1707.06347), its clip asymmetric (DAPO, arXiv 2503.14476),
with truncated importance sampling between learner and engine (fengyao.notion.site/off-policy-rl).

    loss_n = - c_n * min(r_n * A_n, clip(r_n, 1 - clip_low, 1 + clip_high) * A_n)

    without old logprobs   r = pi / mu    c = 1                  mu: the engine, the policy that sampled
    with old logprobs      r = pi / old   c = min(old / mu, C)   old: the learner before the step

c is a constant to the gradient. At the first update of fresh episodes r is 1, up to the engine's rounding,
and the gradient is REINFORCE's.
"""

from dataclasses import dataclass

import torch

from ..terms import LossTerms, TokenTerms, importance


@dataclass(frozen=True, kw_only=True, slots=True)
class PpoClip:
    clip_low: float = 0.2
    clip_high: float = 0.28
    tis_cap: float = 2.0
    """C. Only with old logprobs; without them the ratio itself corrects for the engine."""

    def __post_init__(self) -> None:
        if not (0 < self.clip_low < 1 and self.clip_high > 0 and self.tis_cap >= 1):
            raise ValueError(f"{self}: needs 0 < clip_low < 1, clip_high > 0, tis_cap >= 1")

    def __call__(self, tokens: TokenTerms) -> LossTerms:
        weight = importance(tokens, self.tis_cap)
        ratio_N, advantages_N = weight.ratio_N, tokens.advantages_N
        clipped_N = ratio_N.clamp(1 - self.clip_low, 1 + self.clip_high) * advantages_N
        plain_N = ratio_N * advantages_N
        ratio_N = ratio_N.detach()
        return LossTerms(
            loss_N=-weight.correction_N * torch.minimum(plain_N, clipped_N),
            means={
                "ratio": ratio_N,
                "clip_fraction": (clipped_N < plain_N).detach(),
                "tis_weight": weight.correction_N,
                "abs_log_ratio": (tokens.logprobs_N.detach() - tokens.engine_logprobs_N).abs(),
            },
            maxima={"ratio": ratio_N},
        )
