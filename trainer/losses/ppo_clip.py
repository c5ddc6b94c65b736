"""PPO's clipped surrogate (arXiv 1707.06347), its clip asymmetric (DAPO, arXiv 2503.14476), if wanted with a
second bound for bad tokens (dual clip, arXiv 1912.09729).

    loss_n = - min(r_n * A_n, clip(r_n, 1 - clip_low, 1 + clip_high) * A_n)
    with `dual_clip` c: where A_n < 0, not over - c * A_n

r is pi / old with old logprobs, else pi / mu, mu being the engine. At the first update of fresh episodes it
is 1, up to the engine's rounding, and the gradient is REINFORCE's. At the level "turn" or "episode" it is a
geometric mean (GSPO).
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
class PpoClip:
    clip_low: float = 0.2
    clip_high: float = 0.28
    dual_clip: float | None = None
    """Over 1; 3.0 in the paper. Without it a bad token that has become likely pulls without bound."""
    level: Level = "token"

    def __post_init__(self) -> None:
        check_level(self.level)
        if not (0 < self.clip_low < 1 and self.clip_high > 0):
            raise ValueError(f"{self}: needs 0 < clip_low < 1 and clip_high > 0")
        if self.dual_clip is not None and self.dual_clip <= 1 + self.clip_high:
            raise ValueError(f"{self}: dual_clip must be over 1 + clip_high")

    def __call__(self, tokens: TokenTerms) -> LossTerms:
        ratio_N, advantages_N = ratio(tokens, self.level), tokens.advantages_N
        clipped_N = ratio_N.clamp(1 - self.clip_low, 1 + self.clip_high) * advantages_N
        plain_N = ratio_N * advantages_N
        if self.dual_clip is not None:
            plain_N = ratio_N.clamp(max=self.dual_clip) * advantages_N
        is_clipped_N = (clipped_N < plain_N) | (plain_N > ratio_N * advantages_N)
        loss_N = -plain_N.minimum(clipped_N)
        return watched(tokens, ratio_N, loss_N=loss_N, clip_fraction=is_clipped_N)
