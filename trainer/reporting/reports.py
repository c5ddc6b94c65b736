"""What the learner says of its work, summed over micro-batches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

import torch
from torch import Tensor

from ..batches.packing import MicroBatch, Trained, scatter
from ..batches.rows import Row
from ..objective.terms import LossTerms, TokenTerms
from .flops import Shape


@dataclass(frozen=True, kw_only=True, slots=True)
class LossReport:
    """One `forward_backward`."""

    loss: float
    """This batch's part of the step's loss."""
    num_rows: int
    num_tokens: int
    """Trained tokens."""
    num_inputs: int = 0
    """Tokens that the model read; what rows share in a line counts once."""
    flops: float | None = None
    """Operations that this took (`flops.py`); None for a model whose arithmetic is another one."""
    forward_flops: float | None = None
    """Those of the forward passes: what it takes to look at the same rows without a gradient."""
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


def merge_reports(parts: Sequence[LossReport], places: Sequence[Sequence[int]]) -> LossReport:
    """One report of a batch that several ranks did; `places`: [rank] the batch's indices of its rows."""
    num_tokens = sum(part.num_tokens for part in parts)
    metrics: dict[str, float] = {}
    for name in dict.fromkeys(name for part in parts for name in part.metrics):
        values = [(part.metrics[name], part.num_tokens) for part in parts if name in part.metrics]
        if name.endswith("_max"):
            metrics[name] = max(value for value, _ in values)
        else:
            metrics[name] = sum(value * num for value, num in values) / num_tokens

    def in_order(by_rank: Sequence[Sequence[tuple[float, ...]]]) -> tuple[tuple[float, ...], ...]:
        pairs = (zip(hand, rows, strict=True) for hand, rows in zip(places, by_rank, strict=True))
        found = dict(chain.from_iterable(pairs))
        return tuple(found[at] for at in range(len(found)))

    return LossReport(
        loss=sum(part.loss for part in parts),
        num_rows=sum(map(len, places)),
        num_tokens=num_tokens,
        num_inputs=sum(part.num_inputs for part in parts),
        flops=_sum([part.flops for part in parts]),
        forward_flops=_sum([part.forward_flops for part in parts]),
        metrics=metrics,
        logprobs=in_order([part.logprobs for part in parts]),
        entropies=in_order([part.entropies for part in parts]),
    )


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


class Tally:
    """Adds up parts of micro-batches; reads from the device once, at the end."""

    def __init__(self, rows: Sequence[Row], micros: Sequence[MicroBatch], shape: Shape | None) -> None:
        self._num_inputs = sum(len(micro.inputs_T) for micro in micros)
        self._flops = None if shape is None else shape.flops_of(micros)
        self._forward_flops = None if shape is None else shape.flops_of(micros, has_gradient=False)
        self._loss: list[Tensor] = []
        self._sums: dict[str, list[Tensor]] = {}
        self._maxima: dict[str, list[Tensor]] = {}
        self._logprobs = [[0.0] * len(row.tokens.ids) for row in rows]
        self._entropies = [[0.0] * len(row.tokens.ids) for row in rows]
        self._num_tokens = 0

    def add(self, part: Trained, loss: Tensor, tokens: TokenTerms, terms: LossTerms) -> None:
        self._loss.append(loss.detach())
        for name, values_N in terms.means.items():
            self._sums.setdefault(name, []).append(values_N.sum())
        for name, values_N in terms.maxima.items():
            self._maxima.setdefault(f"{name}_max", []).append(values_N.max())
        scatter(part, tokens.logprobs_N.detach(), self._logprobs)
        scatter(part, tokens.entropy_N.detach(), self._entropies)
        self._num_tokens += len(part.where)

    def report(self) -> LossReport:
        means = {name: _total(values) / self._num_tokens for name, values in self._sums.items()}
        maxima = {name: float(torch.stack(values).max()) for name, values in self._maxima.items()}
        return LossReport(
            loss=_total(self._loss),
            num_rows=len(self._logprobs),
            num_tokens=self._num_tokens,
            num_inputs=self._num_inputs,
            flops=self._flops,
            forward_flops=self._forward_flops,
            metrics=means | maxima,
            logprobs=tuple(tuple(row) for row in self._logprobs),
            entropies=tuple(tuple(row) for row in self._entropies),
        )


def _total(values: Sequence[Tensor]) -> float:
    return float(torch.stack(list(values)).sum()) if values else 0.0
