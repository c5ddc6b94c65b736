"""What the learner says of its work, summed over micro-batches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .kl import KlPenalty
from .packing import Trained, scatter
from .rows import Row
from .terms import Loss, LossTerms, TokenTerms


@dataclass(frozen=True, kw_only=True, slots=True)
class LossReport:
    """One `forward_backward`."""

    loss: float
    """This batch's part of the step's loss."""
    num_rows: int
    num_tokens: int
    """Trained tokens."""
    metrics: Mapping[str, float]
    """Means over the trained tokens, and maxima whose names end in "_max". Always has "entropy", nats."""
    logprobs: tuple[tuple[float, ...], ...] = field(repr=False)
    """[rows][T] learner logprobs that the loss was made of, nats; 0.0 where nothing is trained."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepReport:
    """One `optim_step`."""

    grad_norm: float
    """Before clipping."""
    lr: float
    is_skipped: bool = False
    """The gradient was not finite, so the weights were left alone."""


def evaluate(tokens: TokenTerms, loss: Loss, kl: KlPenalty | None) -> LossTerms:
    """The loss of each token, the KL penalty included."""
    terms = loss(tokens)
    means = {**terms.means, "entropy": tokens.entropy_N.detach()}
    if kl is None:
        return LossTerms(loss_N=terms.loss_N, means=means, maxima=terms.maxima)
    kl_N = kl(tokens)
    means["kl"] = kl_N.detach()
    return LossTerms(loss_N=terms.loss_N + kl.coefficient * kl_N, means=means, maxima=terms.maxima)


class Tally:
    """Adds up parts of micro-batches; reads from the device once, at the end."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._loss: list[Tensor] = []
        self._sums: dict[str, list[Tensor]] = {}
        self._maxima: dict[str, list[Tensor]] = {}
        self._logprobs = [[0.0] * len(row.tokens.ids) for row in rows]
        self._num_tokens = 0

    def add(self, part: Trained, loss: Tensor, tokens: TokenTerms, terms: LossTerms) -> None:
        self._loss.append(loss.detach())
        for name, values_N in terms.means.items():
            self._sums.setdefault(name, []).append(values_N.sum())
        for name, values_N in terms.maxima.items():
            self._maxima.setdefault(f"{name}_max", []).append(values_N.max())
        scatter(part, tokens.logprobs_N.detach(), self._logprobs)
        self._num_tokens += len(part.where)

    def report(self) -> LossReport:
        means = {name: _total(values) / self._num_tokens for name, values in self._sums.items()}
        maxima = {name: float(torch.stack(values).max()) for name, values in self._maxima.items()}
        return LossReport(
            loss=_total(self._loss),
            num_rows=len(self._logprobs),
            num_tokens=self._num_tokens,
            metrics=means | maxima,
            logprobs=tuple(tuple(row) for row in self._logprobs),
        )


def _total(values: Sequence[Tensor]) -> float:
    return float(torch.stack(list(values)).sum()) if values else 0.0
