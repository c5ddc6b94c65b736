"""What the learner says of its work, summed over micro-batches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .packing import MicroBatch, scatter
from .rows import Row
from .terms import LossTerms, TokenTerms


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
    entropies: tuple[tuple[float, ...], ...] = field(repr=False)
    """[rows][T] entropies of the learner's distributions, nats; 0.0 where nothing is trained."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepReport:
    """One `optim_step`."""

    grad_norm: float
    """Before clipping."""
    lr: float
    is_skipped: bool = False
    """The gradient was not finite, so the weights were left alone."""


class Tally:
    """Adds up micro-batches; reads from the device once, at the end."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._loss: list[Tensor] = []
        self._sums: dict[str, list[Tensor]] = {}
        self._maxima: dict[str, list[Tensor]] = {}
        self._logprobs = [[0.0] * len(row.tokens.ids) for row in rows]
        self._entropies = [[0.0] * len(row.tokens.ids) for row in rows]
        self._num_tokens = 0

    def add(self, micro: MicroBatch, loss: Tensor, tokens: TokenTerms, terms: LossTerms) -> None:
        self._loss.append(loss.detach())
        for name, values_N in terms.means.items():
            self._sums.setdefault(name, []).append(values_N.sum())
        for name, values_N in terms.maxima.items():
            self._maxima.setdefault(f"{name}_max", []).append(values_N.max())
        scatter(micro, tokens.logprobs_N.detach(), self._logprobs)
        scatter(micro, tokens.entropy_N.detach(), self._entropies)
        self._num_tokens += len(micro.where)

    def report(self) -> LossReport:
        means = {name: _total(values) / self._num_tokens for name, values in self._sums.items()}
        maxima = {name: float(torch.stack(values).max()) for name, values in self._maxima.items()}
        return LossReport(
            loss=_total(self._loss),
            num_rows=len(self._logprobs),
            num_tokens=self._num_tokens,
            metrics=means | maxima,
            logprobs=tuple(tuple(row) for row in self._logprobs),
            entropies=tuple(tuple(row) for row in self._entropies),
        )


def _total(values: Sequence[Tensor]) -> float:
    return float(torch.stack(list(values)).sum()) if values else 0.0
