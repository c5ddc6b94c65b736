"""A step again, from its record and without the model: masks, advantages and loss against what was stored.

The loss is a function of logprobs, so the stored ones are enough to compute it again.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ...agents.ledger import Ledger
from ...agents.trajectory import EpisodeKey, Group, Trajectory
from .._torch import to_list
from ..advantages import Accepted
from ..batches.columns import Columns
from ..batches.packing import micro_batches
from ..batches.rows import Batch, Row, training_rows
from ..judge import judge
from ..losses import load_loss
from ..objective.correction import TOKEN_TIS, Correction
from ..objective.kl import KlPenalty
from ..objective.objective import Objective
from ..recipe import GrpoSection, Recipe
from ..update import objective_options, whole_batch, with_kl_in_reward
from .step_record import altered

TOLERANCE = 1e-6
"""Between the stored loss, computed in the model's precision, and the one computed here in fp64."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Replayed:
    """One optimizer step, stored and computed again."""

    stored_loss: float
    loss: float
    """NaN where there are differences."""
    scale: float = 0.0
    """What the parts of the loss are together, without their signs: what a rounding error is relative to."""
    differences: tuple[str, ...] = ()
    """What was altered since, in the record or in the episodes, by row."""

    @property
    def is_same(self) -> bool:
        """Whether nothing was altered, and the loss is the stored one but for its rounding. A loss that
        diverged when it was stored diverges again."""
        if self.differences:
            return False
        if not (math.isfinite(self.loss) and math.isfinite(self.stored_loss)):
            return self.loss == self.stored_loss or (math.isnan(self.loss) and math.isnan(self.stored_loss))
        return abs(self.loss - self.stored_loss) <= TOLERANCE * max(1.0, self.scale)


def batch_losses(
    batch: Batch,
    logprobs: Sequence[Sequence[float]],
    loss: str = "ppo_clip",
    *,
    correction: Correction | None = TOKEN_TIS,
    kl: KlPenalty | None = None,
    entropy_bonus: float = 0.0,
    entropies: Sequence[Sequence[float]] | None = None,
    **options: Any,
) -> list[float]:
    """The parts of the loss that `Learner.forward_backward` reports, one for each trained token, from
    [rows][T] learner logprobs; in fp64. `entropies`, [rows][T], are needed for an entropy bonus."""
    objective = Objective(
        loss=load_loss(loss, **options), correction=correction, kl=kl, entropy_bonus=entropy_bonus
    )
    if entropy_bonus and entropies is None:
        raise ValueError(f"entropy_bonus is {entropy_bonus}, and the record has no entropies")
    found: list[float] = []
    limit = sum(len(row.tokens.ids) for row in batch.rows)
    micros = micro_batches(batch.rows, limit, torch.device("cpu"), level="episode")
    columns = Columns.of(batch, micros, batch.normaliser, dtype=torch.float64)
    for micro in micros:
        part = micro.trained
        flat = [logprobs[row][position] for row, position in part.where]
        logprobs_N = torch.tensor(flat, dtype=torch.float64)
        entropy_N = torch.zeros_like(logprobs_N)
        if entropies is not None:
            flat = [entropies[row][position] for row, position in part.where]
            entropy_N = torch.tensor(flat, dtype=torch.float64)
        terms = objective(columns.terms(part, logprobs_N, entropy_N))
        found += to_list(terms.loss_N * columns.weights_N[part.place])
    return found


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
    for name in ("loss", "loss_options", "kl_coefficient"):
        ours = json.loads(json.dumps(getattr(section, name)))
        if (theirs := record.get(name, ours)) != ours:
            raise ValueError(f"grpo.{name} in the record: {theirs!r}, in the run's recipe: {ours!r}")
    return [_replay(rows, update, section) for rows, update in zip(batches, updates, strict=True)]


def _replay(rows: Sequence[Row], update: Mapping[str, Any], section: GrpoSection) -> Replayed:
    stored: Sequence[Mapping[str, Any]] = update["rows"]
    if len(rows) != len(stored):
        odd = {tuple(old["key"]) for old in stored} ^ {row.key.columns for row in rows}
        names = ", ".join(sorted(map(str, odd)))
        raise ValueError(
            f"the record has {len(stored)} rows, the episodes make {len(rows)}; the others' keys: {names}"
        )
    sft: Mapping[str, Any] = update.get("sft") or {"value": 0.0, "logprobs": [0.0]}
    stored_loss = update["value"] + sft["value"]
    differences = _compare(rows, stored, ("key", "positions")) + _altered(rows, stored, sft)
    if not differences:
        rows = [_with_policies(row, old) for row, old in zip(rows, stored, strict=True)]
        rows = with_kl_in_reward(rows, section)
    if not differences or section.kl_kind != "k1":  # k1 in an advantage is made of what may be altered
        differences += _compare(rows, stored, ("advantages",))
    if differences:
        return Replayed(stored_loss=stored_loss, loss=float("nan"), differences=tuple(differences))
    losses = batch_losses(
        whole_batch(rows, section, is_fresh=update.get("is_fresh", False)),
        [_spread(row, old["logprobs"]) for row, old in zip(rows, stored, strict=True)],
        entropies=[_spread(row, old["entropies"]) for row, old in zip(rows, stored, strict=True)]
        if section.entropy_coefficient
        else None,
        **objective_options(section),
    )
    losses += [-section.sft_coefficient * each / len(sft["logprobs"]) for each in sft["logprobs"]]
    return Replayed(stored_loss=stored_loss, loss=sum(losses), scale=sum(map(abs, losses)))


def _altered(rows: Sequence[Row], stored: Sequence[Mapping[str, Any]], sft: Mapping[str, Any]) -> list[str]:
    """What has another digest than in the record."""
    found = [
        f"{row.key}: {what}" for row, old in zip(rows, stored, strict=True) for what in altered(old, row)
    ]
    return found + [f"the demonstrations: {what}" for what in altered(sft)]


def _compare(rows: Sequence[Row], stored: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    """What the record says otherwise than the episodes."""
    found: list[str] = []
    for row, old in zip(rows, stored, strict=True):
        mine = {
            "key": list(row.key.columns),
            "positions": row.trained,
            "advantages": [row.advantages[at] for at in row.trained],
        }
        found += [
            f"{row.key}: {name} in the record: {old[name]}, from the episode: {mine[name]}"
            for name in names
            if old[name] != mine[name] and (name != "advantages" or old["positions"] == mine["positions"])
        ]
    return found


def _with_policies(row: Row, stored: Mapping[str, Any]) -> Row:
    """With what the reference, and the learner before the step, said of its tokens."""
    ref, old = stored["ref_logprobs"], stored.get("old_logprobs")
    return replace(
        row,
        ref_logprobs=None if ref is None else _spread(row, ref),
        old_logprobs=None if old is None else _spread(row, old),
    )


def _spread(row: Row, values: Sequence[float]) -> tuple[float, ...]:
    """[T] from one value for each trained token."""
    at = dict(zip(row.trained, values, strict=True))
    return tuple(at.get(position, 0.0) for position in range(len(row.tokens.ids)))
