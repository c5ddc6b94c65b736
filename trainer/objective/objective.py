"""What one optimizer step minimises: a loss, weighed for off-policy tokens, with what is added to it.

w_n * loss_n + kl * KL_n - entropy_bonus * H_n         for each trained token n
"""

from dataclasses import dataclass, replace
from typing import get_args

from .correction import TOKEN_TIS, Correction
from .kl import KlPenalty
from .terms import Level, Loss, LossTerms, TokenTerms, traits


@dataclass(frozen=True, kw_only=True, slots=True)
class Objective:
    """One number for each token, from all parts."""

    loss: Loss
    correction: Correction | None = TOKEN_TIS
    """None: every token weighs 1. Under a supervised loss there is nothing to correct."""
    kl: KlPenalty | None = None
    entropy_bonus: float = 0.0
    """The loss falls by this times the entropy of the whole distribution, nats (arXiv 1602.01783)."""

    def __post_init__(self) -> None:
        if traits(self.loss).is_supervised and self.correction not in (None, TOKEN_TIS):
            raise ValueError(
                f"correction is {self.correction}, and the loss is supervised: no policy sampled its tokens, "
                "so there is nothing to correct; leave it out"
            )

    @property
    def level(self) -> Level:
        """How far a token's loss looks, in any of its parts: what must go through the head together."""
        levels: set[Level] = {
            traits(self.loss).level,
            "token" if self.correction is None else self.correction.reach,
            "token" if self.kl is None else self.kl.level,
        }
        return max(levels, key=get_args(Level).index)

    @property
    def needs_sampled(self) -> bool:
        """Whether it compares with the policy that sampled, which demonstrations do not have."""
        return not traits(self.loss).is_supervised or self.kl is not None

    def __call__(self, tokens: TokenTerms) -> LossTerms:
        is_corrected = self.correction is not None and tokens.old_logprobs_N is not None
        if is_corrected and not traits(self.loss).is_supervised:
            assert self.correction is not None
            tokens = replace(tokens, correction_N=self.correction(tokens))
        terms = self.loss(tokens)
        loss_N, means = terms.loss_N, {**terms.means, "entropy": tokens.entropy_N.detach()}
        if tokens.correction_N is not None:
            loss_N = loss_N * tokens.correction_N
            means["correction"] = tokens.correction_N
        if self.kl is not None:
            kl_N = self.kl(tokens)
            loss_N = loss_N + self.kl.coefficient * kl_N
            means["kl_penalty"] = kl_N.detach()
        if self.entropy_bonus:
            loss_N = loss_N - self.entropy_bonus * tokens.entropy_N
        return LossTerms(loss_N=loss_N, means=means, maxima=terms.maxima)
