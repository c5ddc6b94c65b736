"""What the learner says of its work, summed over micro-batches."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

import torch
from torch import Tensor

from .._torch import to_list
from ..batches.packing import MicroBatch, Trained, spread
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
            metrics[name] = largest(value for value, _ in values)
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


def largest(values: Iterable[float]) -> float:
    """The maximum; NaN where there is one, in whatever order: `max` keeps it only where it comes first.

    >>> largest([1.0, float("nan"), 2.0]), largest([1.0, 2.0])
    (nan, 2.0)
    """
    found = list(values)
    return math.nan if any(map(math.isnan, found)) else max(found)


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


class Tally:
    """Adds up parts of micro-batches; reads from the device at the end."""

    def __init__(self, rows: Sequence[Row], micros: Sequence[MicroBatch], shape: Shape | None) -> None:
        self._rows, self._parts = rows, list[Trained]()
        self._num_inputs = sum(len(micro.inputs_T) for micro in micros)
        self._flops = None if shape is None else shape.flops_of(micros)
        self._forward_flops = None if shape is None else shape.flops_of(micros, has_gradient=False)
        self._losses: list[Tensor] = []
        self._sums: dict[str, list[Tensor]] = {}
        self._maxima: dict[str, list[Tensor]] = {}
        self._logprobs: list[Tensor] = []
        self._entropies: list[Tensor] = []

    def add(self, part: Trained, loss: Tensor, tokens: TokenTerms, terms: LossTerms) -> None:
        self._parts.append(part)
        self._losses.append(loss.detach())
        for name, values_N in terms.means.items():
            self._sums.setdefault(name, []).append(values_N.sum())
        for name, values_N in terms.maxima.items():
            self._maxima.setdefault(f"{name}_max", []).append(values_N.max())
        self._logprobs.append(tokens.logprobs_N.detach())
        self._entropies.append(tokens.entropy_N.detach())

    def report(self) -> LossReport:
        num_tokens = sum(len(part.where) for part in self._parts)
        sums = _read({name: torch.stack(values).sum() for name, values in self._sums.items()})
        maxima = _read({name: torch.stack(values).max() for name, values in self._maxima.items()})
        return LossReport(
            loss=float(torch.stack(self._losses).sum()) if self._losses else 0.0,
            num_rows=len(self._rows),
            num_tokens=num_tokens,
            num_inputs=self._num_inputs,
            flops=self._flops,
            forward_flops=self._forward_flops,
            metrics={name: value / num_tokens for name, value in sums.items()} | maxima,
            logprobs=spread(self._parts, self._logprobs, self._rows),
            entropies=spread(self._parts, self._entropies, self._rows),
        )


def _read(values: Mapping[str, Tensor]) -> dict[str, float]:
    """Scalars, all of them with one look at the device."""
    if not values:
        return {}
    return dict(zip(values, to_list(torch.stack([each.double() for each in values.values()])), strict=True))
