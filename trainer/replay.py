"""A step again, from its record and without the model: masks, advantages and loss against what was stored.

The loss is a function of logprobs, so the stored ones are enough to compute it again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..agents.ledger import Ledger
from ..agents.trajectory import EpisodeKey, Group, Trajectory
from .advantages import Accepted
from .judge import judge
from .kl import KlPenalty
from .losses import load_loss
from .packing import micro_batches, token_terms, token_weights
from .recipe import GrpoSection, Recipe
from .reports import evaluate
from .rows import Batch, Row, make_batch, training_rows


@dataclass(frozen=True, kw_only=True, slots=True)
class Replayed:
    """One optimizer step, stored and computed again."""

    stored_loss: float
    loss: float
    """NaN where there are differences."""
    differences: tuple[str, ...] = ()
    """Where tokens, masks or advantages are not those of the record."""


def batch_loss(
    batch: Batch,
    logprobs: Sequence[Sequence[float]],
    loss: str = "ppo_clip",
    *,
    kl: KlPenalty | None = None,
    **options: Any,
) -> float:
    """What `Learner.forward_backward` reports, from [rows][T] learner logprobs; in fp64."""
    compute = load_loss(loss, **options)
    total = 0.0
    for micro in micro_batches(
        batch.rows, sum(len(row.tokens.ids) for row in batch.rows), torch.device("cpu")
    ):
        part = micro.trained
        flat = [logprobs[row][position] for row, position in part.where]
        logprobs_N = torch.tensor(flat, dtype=torch.float64)
        tokens = token_terms(part, batch.rows, logprobs_N, torch.zeros_like(logprobs_N))
        weights_N = token_weights(part, batch.rows, batch.normaliser, logprobs_N)
        total += float((evaluate(tokens, compute, kl).loss_N * weights_N).sum())
    return total


def replay_stored(ledger: Ledger, recipe: Recipe, step: int) -> list[Replayed]:
    """Step `step` from the run file alone: rewards to advantages, token graphs to rows, logprobs to loss."""
    record = ledger.step(step)
    if record is None:
        raise ValueError(f"the run file has no step {step}")
    groups = [_stored_group(ledger, keys) for keys in record["groups"]]
    judgement = judge(groups, recipe.grpo, seed=recipe.seed, step=step - 1, late=recipe.late_groups)
    return replay_step(judgement.accepted, recipe.grpo, record)


def _stored_group(ledger: Ledger, keys: Sequence[Sequence[Any]]) -> Group:
    """The episodes of one group; `keys`: [task, epoch, sample, attempt] each."""
    members: list[Trajectory] = []
    for task_id, epoch, sample, attempt in keys:
        key = EpisodeKey(epoch=epoch, task_id=task_id, sample=sample, attempt=attempt)
        found = ledger.finished(key)
        if found is None:
            raise ValueError(f"the run file has no finished episode {key}")
        members.append(found)
    return Group(task_id=members[0].key.task_id, members=tuple(members))


def replay_step(
    accepted: Sequence[Accepted], section: GrpoSection, record: Mapping[str, Any]
) -> list[Replayed]:
    """Every update of a step's record (`update.py`), from the episodes that were accepted."""
    parts = (accepted[part :: section.updates_per_step] for part in range(section.updates_per_step))
    batches = [rows for rows in map(training_rows, parts) if rows]
    updates: Sequence[Mapping[str, Any]] = record["updates"]
    if len(batches) != len(updates):
        raise ValueError(f"the record has {len(updates)} updates, the episodes make {len(batches)}")
    kl = KlPenalty(coefficient=section.kl_coefficient) if section.kl_coefficient else None
    return [_replay(rows, update, section, kl) for rows, update in zip(batches, updates, strict=True)]


def _replay(
    rows: Sequence[Row], update: Mapping[str, Any], section: GrpoSection, kl: KlPenalty | None
) -> Replayed:
    stored: Sequence[Mapping[str, Any]] = update["rows"]
    if len(rows) != len(stored):
        raise ValueError(f"the record has {len(stored)} rows, the episodes make {len(rows)}")
    differences = [text for row, old in zip(rows, stored, strict=True) for text in _compare(row, old)]
    if differences:
        return Replayed(stored_loss=update["value"], loss=float("nan"), differences=tuple(differences))
    whole = [_with_reference(row, old) for row, old in zip(rows, stored, strict=True)]
    logprobs = [_spread(row, old["logprobs"]) for row, old in zip(rows, stored, strict=True)]
    batch = make_batch(whole, section.aggregation)
    loss = batch_loss(batch, logprobs, section.loss, kl=kl, **section.loss_options)
    return Replayed(stored_loss=update["value"], loss=loss)


def _compare(row: Row, stored: Mapping[str, Any]) -> list[str]:
    key, trained = row.key, row.trained
    mine = {
        "key": list(key.columns),
        "positions": trained,
        "advantages": [row.advantages[at] for at in trained],
    }
    return [
        f"{key}: {name} in the record: {stored[name]}, from the episode: {value}"
        for name, value in mine.items()
        if stored[name] != value
    ]


def _with_reference(row: Row, stored: Mapping[str, Any]) -> Row:
    found: Sequence[float] | None = stored["ref_logprobs"]
    return row if found is None else replace(row, ref_logprobs=_spread(row, found))


def _spread(row: Row, values: Sequence[float]) -> tuple[float, ...]:
    """[T] from one value for each trained token."""
    at = dict(zip(row.trained, values, strict=True))
    return tuple(at.get(position, 0.0) for position in range(len(row.tokens.ids)))
