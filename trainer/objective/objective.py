"""What one optimizer step minimises: a loss, weighed for off-policy tokens, with what is added to it.

w_n * loss_n + kl * KL_n - entropy_bonus * H_n         for each trained token n
"""

from dataclasses import dataclass, replace

from torch import Tensor

from ..batches.packing import Trained, token_terms
from ..batches.rows import Batch
from .correction import TOKEN_TIS, Correction
from .kl import KlPenalty
from .terms import Loss, LossTerms, TokenTerms, traits


@dataclass(frozen=True, kw_only=True, slots=True)
class Objective:
    """One number for each token, from all parts."""

    loss: Loss
    correction: Correction | None = TOKEN_TIS
    """None: every token weighs 1."""
    kl: KlPenalty | None = None
    entropy_bonus: float = 0.0
    """The loss falls by this times the entropy of the whole distribution, nats (arXiv 1602.01783)."""

    @property
    def needs_episodes(self) -> bool:
        """Whether a micro-batch must hold its episodes whole."""
        return (
            traits(self.loss).level == "episode"
            or (self.correction is not None and self.correction.needs_episodes)
            or (self.kl is not None and self.kl.level == "episode")
        )

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


def batch_terms(part: Trained, batch: Batch, logprobs_N: Tensor, entropy_N: Tensor) -> TokenTerms:
    """What a loss reads of a part. In a fresh batch the learner's own logprobs are the old ones."""
    tokens = token_terms(part, batch.rows, logprobs_N, entropy_N)
    return replace(tokens, old_logprobs_N=logprobs_N.detach()) if batch.is_fresh else tokens
