"""What a loss reads and returns. N: trained tokens of some whole rows, row by row, in order."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenTerms:
    """What is known of each trained token. All logprobs are nats, after the sampling temperature."""

    logprobs_N: Tensor
    """Under the policy that is trained. This and the entropy take a gradient, and nothing else."""
    entropy_N: Tensor
    """Of the trained policy's whole distribution, nats."""
    engine_logprobs_N: Tensor
    """Under the policy that sampled, as the engine reported them."""
    old_logprobs_N: Tensor | None = None
    """Under the learner before the step; None: none were computed."""
    ref_logprobs_N: Tensor | None = None
    """Under the reference policy; None: none were computed."""
    advantages_N: Tensor
    row_N: Tensor
    """int64, which of these rows a token belongs to."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LossTerms:
    """The learner weighs `loss_N` by the batch's normaliser and sums; a loss never averages."""

    loss_N: Tensor
    means: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    """[N] each, without a gradient; reported as the mean over the step's trained tokens."""
    maxima: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    """[N] each, without a gradient; reported as the maximum, under the name and "_max"."""


class Loss(Protocol):
    """One number for each token."""

    def __call__(self, tokens: TokenTerms) -> LossTerms: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Importance:
    """How far the trained policy is from the one that sampled, in two factors."""

    ratio_N: Tensor
    """Trained policy / anchor: the learner before the step where that is known, else the engine."""
    correction_N: Tensor
    """Anchor / engine, capped, a constant to the gradient; 1.0 where the anchor is the engine."""


def importance(tokens: TokenTerms, cap: float) -> Importance:
    """Split pi / mu. Truncated importance sampling: `cap` bounds the factor that no clip bounds."""
    if tokens.old_logprobs_N is None:
        ratio_N = (tokens.logprobs_N - tokens.engine_logprobs_N).exp()
        return Importance(ratio_N=ratio_N, correction_N=ratio_N.new_ones(ratio_N.shape))
    return Importance(
        ratio_N=(tokens.logprobs_N - tokens.old_logprobs_N).exp(),
        correction_N=(tokens.old_logprobs_N - tokens.engine_logprobs_N).exp().clamp(max=cap),
    )
