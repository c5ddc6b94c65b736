"""One step of learning: accepted episodes in, new weights out, and a record from which it can be replayed."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

from .advantages import Accepted
from .kl import KlPenalty
from .learner import Learner
from .recipe import GrpoSection
from .reports import LossReport, StepReport
from .rows import Batch, Row, make_batch, training_rows


@dataclass(frozen=True, kw_only=True, slots=True)
class Update:
    """What one step did to the policy."""

    metrics: dict[str, float]
    """Means over the step's updates."""
    record: dict[str, Any]
    """Enough to compute the losses again without the model (`replay.py`)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Updater:
    """Turns a batch of episodes into optimizer steps."""

    learner: Learner
    section: GrpoSection
    kl: KlPenalty | None = field(init=False)

    def __post_init__(self) -> None:
        coefficient = self.section.kl_coefficient
        object.__setattr__(self, "kl", KlPenalty(coefficient=coefficient) if coefficient else None)
        if self.section.reference:
            self.learner.keep_reference()

    def update(self, accepted: Sequence[Accepted]) -> Update:
        """Train on every accepted episode once, in `updates_per_step` optimizer steps."""
        updates: list[dict[str, Any]] = []
        metrics: list[dict[str, float]] = []
        for part in range(self.section.updates_per_step):
            rows = self._with_reference(training_rows(accepted[part :: self.section.updates_per_step]))
            if not rows:
                continue
            batch = make_batch(rows, self.section.aggregation)
            report = self.learner.forward_backward(
                batch, self.section.loss, kl=self.kl, **self.section.loss_options
            )
            stepped = self.learner.optim_step()
            updates.append(_record(batch, report))
            metrics.append(_metrics(batch, report, stepped))
            if part == 0:
                metrics[0]["engine_gap_max"] = engine_gap_max(rows, report.logprobs)
        names = dict.fromkeys(name for each in metrics for name in each)
        return Update(
            metrics={name: fmean(each[name] for each in metrics if name in each) for name in names},
            record={
                "loss": self.section.loss,
                "loss_options": self.section.loss_options,
                "kl_coefficient": self.section.kl_coefficient,
                "updates": updates,
            },
        )

    def _with_reference(self, rows: list[Row]) -> list[Row]:
        if not self.section.reference:
            return rows
        logprobs = self.learner.reference_logprobs(rows)
        return [replace(row, ref_logprobs=found) for row, found in zip(rows, logprobs, strict=True)]


def _metrics(batch: Batch, report: LossReport, stepped: StepReport) -> dict[str, float]:
    found = {
        "loss": report.loss,
        "grad_norm": stepped.grad_norm,
        "skipped": float(stepped.is_skipped),
        "lr": stepped.lr,
        "trained_tokens": float(report.num_tokens),
        **report.metrics,
    }
    if (kl := reference_kl(batch.rows, report.logprobs)) is not None:
        found["kl"] = kl
    return found


def engine_gap_max(rows: Sequence[Row], logprobs: Sequence[Sequence[float]]) -> float:
    """Largest |log pi_learner - log pi_engine| of a trained token, nats. At a step's first update the two
    are the same policy, so this is how exactly tokens and weights travel."""
    return max(
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


def _record(batch: Batch, report: LossReport) -> dict[str, Any]:
    return {
        "value": report.loss,
        "aggregation": batch.normaliser.aggregation.value,
        "rows": [_record_row(row, report.logprobs[at]) for at, row in enumerate(batch.rows)],
    }


def _record_row(row: Row, logprobs: Sequence[float]) -> dict[str, Any]:
    """Per-token values only where the mask is True."""
    trained = row.trained
    return {
        "key": row.key.columns,
        "positions": trained,
        "advantages": [row.advantages[at] for at in trained],
        "logprobs": [logprobs[at] for at in trained],
        "ref_logprobs": None if row.ref_logprobs is None else [row.ref_logprobs[at] for at in trained],
    }
