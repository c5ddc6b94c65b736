"""What a loss reads and returns. N: trained tokens, row by row, in order; of whole rows or episodes where
the loss has such a `level`. Imports without torch, as the losses do: a recipe is checked where there is none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, get_args

from ..batches.rows import Aggregation

if TYPE_CHECKING:
    from torch import Tensor

Level = Literal["token", "turn", "episode"]
"""What a ratio is of: a token, or the geometric mean over the tokens of a turn or of an episode."""
MAX_LOG_RATIO = 20.0
"""From here on a ratio stays at exp(20), 5e8, and has no gradient, as in verl: one that is inf makes a NaN of
each 0 beside it, and with it of the whole update."""


def check_level(level: str) -> None:
    """Raise `ValueError` for a level that there is not."""
    if level not in get_args(Level):
        raise ValueError(f"level is {level!r}; it is one of {', '.join(get_args(Level))}")


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
    turn_N: Tensor | None = None
    """int64, which turn of the micro-batch; None: each row is one. A turn lies in one row."""
    episode_N: Tensor | None = None
    """int64, which episode; None: each row is one. With a loss of the level "episode", a micro-batch holds
    all rows of its episodes."""
    correction_N: Tensor | None = None
    """Weight of the token for having been sampled by the engine and not by the learner before the step; a
    constant to the gradient. The objective multiplies the loss by it; None: 1.0 each."""

    @property
    def anchor_logprobs_N(self) -> Tensor:
        """What ratios are taken to: the learner before the step where that is known, else the engine."""
        return self.engine_logprobs_N if self.old_logprobs_N is None else self.old_logprobs_N

    def index(self, level: Level) -> Tensor | None:
        """[N] which tokens belong together; None: each for itself."""
        check_level(level)
        if level == "token":
            return None
        found = self.turn_N if level == "turn" else self.episode_N
        return self.row_N if found is None else found


@dataclass(frozen=True, kw_only=True, slots=True)
class LossTerms:
    """The learner weighs `loss_N` by the batch's normaliser and sums; a loss never averages."""

    loss_N: Tensor
    means: Mapping[str, Tensor] = field(default_factory=dict[str, "Tensor"])
    """[N] each, without a gradient; reported as the mean over the step's trained tokens."""
    maxima: Mapping[str, Tensor] = field(default_factory=dict[str, "Tensor"])
    """[N] each, without a gradient; reported as the maximum, under the name and "_max"."""


class Loss(Protocol):
    """One number for each token. A class may have these attributes, read by `traits`:

    `level`: how far a token's loss looks, "token" by default: a row may be cut anywhere then;
    `aggregation`: what its paper averages over, a value of `rows.Aggregation`, "token" by default;
    `is_supervised`: no policy sampled its tokens, so nothing has to be corrected or learned by reward.
    """

    def __call__(self, tokens: TokenTerms) -> LossTerms: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Traits:
    """What a loss says about itself."""

    level: Level = "token"
    aggregation: str = "token"
    is_supervised: bool = False

    def __post_init__(self) -> None:
        check_level(self.level)
        if self.aggregation not in list(Aggregation):
            raise ValueError(f"aggregation is {self.aggregation!r}; it is one of {', '.join(Aggregation)}")


def traits(loss: Loss) -> Traits:
    """The optional attributes of a loss. Raises `ValueError` for a level or an aggregation that there is
    not."""
    known = Traits()
    return Traits(
        level=getattr(loss, "level", known.level),
        aggregation=getattr(loss, "aggregation", known.aggregation),
        is_supervised=getattr(loss, "is_supervised", known.is_supervised),
    )


def ratio(tokens: TokenTerms, level: Level = "token") -> Tensor:
    """[N] trained policy / anchor. At a higher level the geometric mean over it, the same for all its
    tokens."""
    return bounded_exp(log_ratio(tokens, level))


def bounded_exp(gap_N: Tensor) -> Tensor:
    """[N] exp, up to `MAX_LOG_RATIO`. A NaN has a gradient of NaN, which `clamp` would hide as 0."""
    return gap_N.masked_fill(gap_N > MAX_LOG_RATIO, MAX_LOG_RATIO).exp()


def log_ratio(tokens: TokenTerms, level: Level = "token") -> Tensor:
    """[N] the logarithm of `ratio`, without its bound."""
    return mean_over(tokens.logprobs_N - tokens.anchor_logprobs_N, tokens.index(level))


def sum_over(values_N: Tensor, index_N: Tensor | None) -> Tensor:
    """[N] the sum of the values that share a token's index; the values themselves without one."""
    if index_N is None:
        return values_N
    sums = values_N.new_zeros(values_N.shape[0]).index_add(0, index_N, values_N)
    return sums.index_select(0, index_N)


def mean_over(values_N: Tensor, index_N: Tensor | None) -> Tensor:
    """[N] the mean of the values that share a token's index; the values themselves without one."""
    if index_N is None:
        return values_N
    return sum_over(values_N, index_N) / sum_over(values_N.new_ones(values_N.shape), index_N)


def watched(tokens: TokenTerms, ratio_N: Tensor, **more: Tensor) -> LossTerms:
    """What every loss with a ratio reports, beside its own; `loss_N` is among `more`."""
    loss_N = more.pop("loss_N")
    constant_N = ratio_N.detach()
    gap_N = (tokens.logprobs_N.detach() - tokens.engine_logprobs_N).abs()
    return LossTerms(
        loss_N=loss_N,
        means={"ratio": constant_N, "abs_log_ratio": gap_N, **{name: v.detach() for name, v in more.items()}},
        maxima={"ratio": constant_N},
    )
