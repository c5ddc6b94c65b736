"""A penalty that keeps the policy near a reference, added to any loss. With d = log pi - log ref:

    k2    r' * d^2 / 2               r': the ratio of the trained policy to the one that sampled, a constant
    k3    r * (exp(-d) + d - 1)      the gradient flows through r too

Both have the gradient r * d * grad(log pi): in expectation that of KL(pi || ref), whichever policy sampled.
k3 without r would have the gradient of KL(ref || pi) instead. k3 is the one whose value is unbiased.
J. Schulman, joschu.net/blog/kl-approx.html; DeepSeek-V3.2, arXiv 2512.02556, section 3.1.
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from .terms import TokenTerms, importance


@dataclass(frozen=True, kw_only=True, slots=True)
class KlPenalty:
    coefficient: float
    """The loss grows by this times the divergence, nats a token."""
    kind: Literal["k2", "k3"] = "k3"
    tis_cap: float = 2.0
    """As in `PpoClip`."""

    def __call__(self, tokens: TokenTerms) -> Tensor:
        """[N] the divergence, before the coefficient."""
        if tokens.ref_logprobs_N is None:
            raise ValueError(
                "a KL penalty needs rows with ref_logprobs; learner.reference_logprobs gives them"
            )
        weight = importance(tokens, self.tis_cap)
        ratio_N = weight.ratio_N * weight.correction_N
        gap_N = tokens.logprobs_N - tokens.ref_logprobs_N
        if self.kind == "k2":
            return ratio_N.detach() * gap_N.square() / 2
        return ratio_N * ((-gap_N).exp() + gap_N - 1)
