"""One step of learning: accepted episodes in, new weights out, and a record from which it can be replayed."""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from statistics import fmean
from typing import Any

from .advantages import Accepted
from .batches.rows import Batch, Row, make_batch, training_rows
from .losses import load_loss
from .objective.correction import Correction
from .objective.kl import KlPenalty, kl_in_reward
from .objective.terms import traits
from .ranks.leader import AnyLearner
from .recipe import GrpoSection
from .reporting.diagnostics import off_policy_metrics
from .reporting.reports import LossReport, StepReport, largest
from .reporting.speed import Speed
from .reporting.step_record import sft_record, update_record

COUNTS = ("skipped", "trained_tokens")
"""Metrics of an update whose sum over the updates is the step's."""
PER_UPDATE = ("loss", "grad_norm", "lr", "sft_loss")
"""Metrics of an update as a whole, not of its tokens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Update:
    """What one step did to the policy."""

    metrics: dict[str, float]
    """Over the step's updates: the largest of what ends in "_max", sums of counts, the mean of `PER_UPDATE`,
    and of all else the mean over trained tokens; by lag and by turn, over those of all updates together."""
    record: dict[str, Any]
    """Enough to compute the losses again without the model (`replay.py`)."""

    @property
    def is_lost(self) -> bool:
        """Whether there were updates, and each was left out for a gradient that is not finite."""
        return 0 < len(self.record["updates"]) == self.metrics["skipped"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Updater:
    """Turns a batch of episodes into optimizer steps."""

    learner: AnyLearner
    section: GrpoSection
    demonstrations: Sequence[Row] = field(default=(), repr=False)
    """What `sft_coefficient` draws from."""
    seed: int = 0
    """Of that draw."""
    peak_flops: float | None = None
    """Operations a second of all devices together, for `mfu`; None: nobody knows."""

    def __post_init__(self) -> None:
        if self.section.sft_coefficient and not self.demonstrations:
            raise ValueError(
                f"grpo.sft_coefficient is {self.section.sft_coefficient}, and there are no demonstrations"
            )
        if self.section.has_reference:
            self.learner.keep_reference()

    def update(self, accepted: Sequence[Accepted], *, step: int = 0) -> Update:
        """Train on every accepted episode once, in `updates_per_step` optimizer steps. `step` counts from 0:
        the policy's version."""
        updates: list[dict[str, Any]] = []
        metrics: list[dict[str, float]] = []
        logprobs: list[Sequence[float]] = []
        speed = Speed()
        parts = self._parts(accepted, speed)
        for part, rows in enumerate(parts):
            is_fresh = part == 0 and self.section.old_policy == "learner"
            batch = whole_batch(rows, self.section, is_fresh=is_fresh)
            with speed.timing():
                report = self.learner.forward_backward(batch, **objective_options(self.section))
                speed.add(report, num_forward=_num_forward(rows))
                sft = self._imitate(random.Random(f"{self.seed}/{step}/{part}/sft"), speed)
                stepped = self.learner.optim_step()
            updates.append(
                update_record(batch, report, with_entropy=bool(self.section.entropy_coefficient)) | sft
            )
            metrics.append(_metrics(batch, report, stepped))
            logprobs += report.logprobs
            if sft:
                metrics[-1]["sft_loss"] = sft["sft"]["value"] / self.section.sft_coefficient
            if part == 0:
                metrics[0]["engine_gap_max"] = engine_gap_max(rows, report.logprobs)
        return Update(
            metrics=over_updates(metrics)
            | off_policy_metrics(list(chain(*parts)), logprobs, step)
            | speed.metrics(self.peak_flops),
            record={
                "loss": self.section.loss,
                "loss_options": self.section.loss_options,
                "kl_coefficient": self.section.kl_coefficient,
                "updates": updates,
            },
        )

    def _parts(self, accepted: Sequence[Accepted], speed: Speed) -> list[list[Row]]:
        """The rows of each optimizer step, with everything that has to be known before the first."""
        number, found = self.section.updates_per_step, list[list[Row]]()
        for rows in (training_rows(accepted[part::number]) for part in range(number)):
            if not rows:
                continue
            if self.section.has_reference:
                with speed.timing():
                    logprobs = self.learner.reference_logprobs(rows)
                rows = [replace(row, ref_logprobs=each) for row, each in zip(rows, logprobs, strict=True)]
            if found and self.section.old_policy == "learner":  # the first part's are made on the way
                with speed.timing():
                    logprobs = self.learner.logprobs(rows)
                rows = [replace(row, old_logprobs=each) for row, each in zip(rows, logprobs, strict=True)]
            found.append(with_kl_in_reward(rows, self.section))
        return found

    def _imitate(self, draw: random.Random, speed: Speed) -> dict[str, Any]:
        """Add the gradient of some demonstrations; the part of the record that tells of it."""
        section = self.section
        if not section.sft_coefficient:
            return {}
        rows = draw.sample(self.demonstrations, min(section.sft_batch, len(self.demonstrations)))
        report = self.learner.forward_backward(
            make_batch(rows), "sft", weight=section.sft_coefficient, temperature=1.0
        )
        speed.add(report)
        return {"sft": sft_record(report.loss, rows, report.logprobs)}


def _num_forward(rows: Sequence[Row]) -> int:
    """Passes without a gradient that the rows have behind them: of the reference, of the policy before."""
    return (rows[0].ref_logprobs is not None) + (rows[0].old_logprobs is not None)


def objective_options(section: GrpoSection) -> dict[str, Any]:
    """What `Learner.forward_backward` and `replay.batch_losses` are told of a recipe."""
    penalty = None
    if section.kl_coefficient and section.kl_kind != "k1":
        penalty = KlPenalty(coefficient=section.kl_coefficient, kind=section.kl_kind)
    return {
        "loss": section.loss,
        "correction": None if section.correction is None else Correction(**section.correction.model_dump()),
        "kl": penalty,
        "entropy_bonus": section.entropy_coefficient,
        **section.loss_options,
    }


def whole_batch(rows: Sequence[Row], section: GrpoSection, *, is_fresh: bool) -> Batch:
    """A step's batch, averaged as the recipe says, or as the loss's paper does."""
    aggregation = section.aggregation or traits(load_loss(section.loss, **section.loss_options)).aggregation
    max_tokens = section.aggregation_tokens if aggregation == "constant" else None
    return make_batch(rows, aggregation, max_tokens=max_tokens, is_fresh=is_fresh)


def with_kl_in_reward(rows: list[Row], section: GrpoSection) -> list[Row]:
    """The rows, with k1 in their advantages where the recipe wants it."""
    if section.kl_kind != "k1" or not section.kl_coefficient:
        return rows
    return kl_in_reward(rows, section.kl_coefficient)


def over_updates(metrics: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The numbers of a step, from those of each of its updates, as `Update.metrics` says.

    >>> over_updates([{"ratio": 1.0, "trained_tokens": 3.0}, {"ratio": 2.0, "trained_tokens": 1.0}])
    {'ratio': 1.25, 'trained_tokens': 4.0}
    """
    found: dict[str, float] = {}
    for name in dict.fromkeys(name for each in metrics for name in each):
        values = [each[name] for each in metrics if name in each]
        tokens = [each["trained_tokens"] for each in metrics if name in each]
        if name.endswith("_max"):
            found[name] = largest(values)
        elif name.endswith("_min"):
            found[name] = -largest(-value for value in values)
        elif name in COUNTS:
            found[name] = math.fsum(values)
        elif name in PER_UPDATE or not any(tokens):
            found[name] = fmean(values)
        else:
            found[name] = fmean(values, tokens)
    return found


def _metrics(batch: Batch, report: LossReport, stepped: StepReport) -> dict[str, float]:
    found = {
        "loss": report.loss,
        "grad_norm": stepped.grad_norm,
        "skipped": float(stepped.is_skipped),
        "lr": stepped.lr,
        "trained_tokens": float(report.num_tokens),
        **report.metrics,
        **_advantages(batch),
        "approx_kl": _moved(batch, report.logprobs),
    }
    if (kl := reference_kl(batch.rows, report.logprobs)) is not None:
        found["kl"] = kl
    return found


def _advantages(batch: Batch) -> dict[str, float]:
    """Over the trained tokens, as the loss meets them."""
    values = [row.advantages[at] for row in batch.rows for at in row.trained]
    if not values:
        return {}
    return {
        "advantage": sum(values) / len(values),
        "advantage_min": -largest(-value for value in values),
        "advantage_max": largest(values),
    }


def _moved(batch: Batch, logprobs: Sequence[Sequence[float]]) -> float:
    """Mean of log anchor - log pi over the trained tokens, nats, where ratios are taken to the anchor: the k1
    estimate of KL(anchor || pi), and 0 in a fresh batch."""
    gaps = [
        (row.tokens.logprobs if row.old_logprobs is None else row.old_logprobs)[at] - found[at]
        for row, found in zip(batch.rows, logprobs, strict=True)
        for at in row.trained
    ]
    return 0.0 if batch.is_fresh or not gaps else sum(gaps) / len(gaps)


def engine_gap_max(rows: Sequence[Row], logprobs: Sequence[Sequence[float]]) -> float:
    """Largest |log pi_learner - log pi_engine| of a trained token, nats. At a step's first update the two
    are the same policy, so this is how exactly tokens and weights travel."""
    return largest(
        abs(logprobs[at][position] - row.tokens.logprobs[position])
        for at, row in enumerate(rows)
        for position in row.trained
    )


def reference_kl(rows: Sequence[Row], logprobs: Sequence[Sequence[float]]) -> float | None:
    """Mean of log pi - log ref over the trained tokens, nats: the k1 estimate of KL(pi || ref)."""
    gaps = [
        logprobs[at][position] - row.ref_logprobs[position]
        for at, row in enumerate(rows)
        if row.ref_logprobs is not None
        for position in row.trained
    ]
    return fmean(gaps) if gaps else None
