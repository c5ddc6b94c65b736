"""Rows to micro-batches. B: rows of a micro-batch, T: its width, N: its trained tokens.

Each row has a line of its own, padded on the right. Attention is causal, so no token sees another row or the
padding, and no mask has to say so. Rows are sorted by length, so that little is padded. (Several rows in one
line need a block mask, and attention over the square of the line: 1.6 to 8 times slower on a CPU.)
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ._torch import to_list
from .rows import Normaliser, Row
from .terms import TokenTerms


@dataclass(frozen=True, kw_only=True, slots=True)
class MicroBatch:
    """One forward and backward pass over some rows of a batch."""

    inputs_BT: Tensor
    """int64 token ids, up to the one before a row's last trained token; what follows is never looked at."""
    source_N: Tensor
    """int64 index into the flat [B * T] positions: where a token was predicted."""
    targets_N: Tensor
    """int64 ids of the trained tokens."""
    where: tuple[tuple[int, int], ...] = field(repr=False)
    """[N] (row, position) of each trained token, in the batch's numbering."""


def micro_batches(
    rows: Sequence[Row], max_tokens: int, device: torch.device, *, whole_episodes: bool = False
) -> list[MicroBatch]:
    """Every row with a trained token, once. A row longer than `max_tokens` gets a micro-batch of its own;
    with `whole_episodes`, so does an episode whose rows are."""
    widths = [row.trained_until for row in rows]
    plans: list[list[int]] = []
    for unit in _units(rows, widths, whole_episodes):
        width = max(widths[index] for index in (*unit, *(plans[-1] if plans else ())))
        if plans and (len(plans[-1]) + len(unit)) * width <= max_tokens:
            plans[-1] += unit
        else:
            plans.append(unit)
    return [_collate(plan, max(widths[index] for index in plan), rows, device) for plan in plans]


def _units(rows: Sequence[Row], widths: Sequence[int], whole_episodes: bool) -> list[list[int]]:
    """Indices of rows that stay together, by the longest of them."""
    units: dict[object, list[int]] = {}
    for index in range(len(rows)):
        if widths[index]:
            units.setdefault(rows[index].key if whole_episodes else index, []).append(index)
    return sorted(units.values(), key=lambda unit: max(widths[index] for index in unit))


def _collate(plan: Sequence[int], width: int, rows: Sequence[Row], device: torch.device) -> MicroBatch:
    inputs: list[list[int]] = []
    source: list[int] = []
    where: list[tuple[int, int]] = []
    for line, index in enumerate(plan):
        ids = rows[index].tokens.ids[: rows[index].trained_until]
        inputs.append([*ids, *(0,) * (width - len(ids))])  # by length: any id may be sampled, a pad token too
        positions = rows[index].trained
        source += [line * width + position - 1 for position in positions]
        where += [(index, position) for position in positions]
    return MicroBatch(
        inputs_BT=torch.tensor(inputs, device=device),
        source_N=torch.tensor(source, device=device),
        targets_N=torch.tensor([rows[row].tokens.ids[position] for row, position in where], device=device),
        where=tuple(where),
    )


def token_terms(micro: MicroBatch, rows: Sequence[Row], logprobs_N: Tensor, entropy_N: Tensor) -> TokenTerms:
    """Everything a loss reads, from the rows and what the model says of them."""
    old = [row.old_logprobs for row in rows]
    ref = [row.ref_logprobs for row in rows]
    lines = {row: line for line, row in enumerate(dict.fromkeys(row for row, _ in micro.where))}
    return TokenTerms(
        logprobs_N=logprobs_N,
        entropy_N=entropy_N,
        engine_logprobs_N=_gather(micro, [row.tokens.logprobs for row in rows], logprobs_N),
        old_logprobs_N=_gather_optional(micro, old, logprobs_N),
        ref_logprobs_N=_gather_optional(micro, ref, logprobs_N),
        advantages_N=_gather(micro, [row.advantages for row in rows], logprobs_N),
        row_N=torch.tensor([lines[row] for row, _ in micro.where], device=logprobs_N.device),
        turn_N=_numbered(((row, rows[row].turns[position]) for row, position in micro.where), logprobs_N),
        episode_N=_numbered((rows[row].key for row, _ in micro.where), logprobs_N),
    )


def _numbered(names: Iterable[object], like: Tensor) -> Tensor:
    """[N] int64: equal names, equal numbers, from 0."""
    numbers: dict[object, int] = {}
    found = [numbers.setdefault(name, len(numbers)) for name in names]
    return torch.tensor(found, device=like.device)


def token_weights(micro: MicroBatch, rows: Sequence[Row], normaliser: Normaliser, like: Tensor) -> Tensor:
    """[N] what each token counts in the step's loss."""
    weights = {row: normaliser.weights(rows[row]) for row in dict.fromkeys(row for row, _ in micro.where)}
    return _tensor((weights[row][position] for row, position in micro.where), like)


def scatter(micro: MicroBatch, values_N: Tensor, into: Sequence[list[float]]) -> None:
    """Write one value a token to its [row][position]."""
    for (row, position), value in zip(micro.where, to_list(values_N), strict=True):
        into[row][position] = value


def _gather(micro: MicroBatch, values: Sequence[Sequence[float]], like: Tensor) -> Tensor:
    return _tensor((values[row][position] for row, position in micro.where), like)


def _gather_optional(
    micro: MicroBatch, values: Sequence[Sequence[float] | None], like: Tensor
) -> Tensor | None:
    present = [row_values for row_values in values if row_values is not None]
    if not present:
        return None
    if len(present) != len(values):
        raise ValueError(f"{len(present)} of {len(values)} rows have old or ref logprobs; all or none must")
    return _gather(micro, present, like)


def _tensor(values: Iterable[float], like: Tensor) -> Tensor:
    return torch.tensor(list(values), dtype=like.dtype, device=like.device)
