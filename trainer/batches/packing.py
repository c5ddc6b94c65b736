"""Rows to micro-batches. T: tokens of a micro-batch, N: its trained tokens.

A micro-batch is one line: its rows stand one after the other, without padding, and each counts its positions
from 0. `attention.Layout` keeps them apart. With shared prefixes, what rows begin with in common stands in
the line once.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise

import torch
from torch import Tensor

from ...agents.tokengraph import common_prefix
from .._torch import to_list
from ..objective.terms import TokenTerms
from .attention import Layout, Span
from .rows import Normaliser, Row


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """Trained tokens of whole rows, row by row, in order."""

    source_N: Tensor
    """int64 index into the line: where a token was predicted."""
    targets_N: Tensor
    """int64 ids of the trained tokens."""
    where: tuple[tuple[int, int], ...] = field(repr=False)
    """[N] (row, position) of each trained token, in the batch's numbering."""

    def __getitem__(self, part: slice) -> "Trained":
        return Trained(source_N=self.source_N[part], targets_N=self.targets_N[part], where=self.where[part])


@dataclass(frozen=True, kw_only=True, slots=True)
class MicroBatch:
    """One forward and backward pass over some rows of a batch."""

    inputs_T: Tensor
    """int64 token ids, of each row up to the one before its last trained token: nothing looks at the rest."""
    positions_T: Tensor
    """int64, where a token stands in its row."""
    layout: Layout
    trained: Trained
    units: tuple[int, ...] = field(repr=False)
    """How many trained tokens each row has, or each episode: what no loss may take apart."""

    def parts(self, max_trained: int) -> list[Trained]:
        """What goes through the head together: whole units with so many trained tokens, or one larger one."""
        starts, end = [0], 0
        for num in self.units:
            if starts[-1] < end and end + num - starts[-1] > max_trained:
                starts.append(end)
            end += num
        return [self.trained[start:stop] for start, stop in pairwise([*starts, end])]


def micro_batches(
    rows: Sequence[Row],
    max_tokens: int,
    device: torch.device,
    *,
    share_from: int | None = None,
    whole_episodes: bool = False,
) -> list[MicroBatch]:
    """Every row with a trained token, once. A row longer than `max_tokens` gets a micro-batch of its own;
    with `whole_episodes`, so does an episode whose rows are.

    `share_from`: what neighbours in a micro-batch begin with in common is computed once, from so many tokens
    on; None: never.
    """
    units: dict[object, list[int]] = {}
    for index, row in enumerate(rows):
        if row.trained_until:
            units.setdefault(row.key if whole_episodes else index, []).append(index)
    if share_from is None:
        plans = _fill(rows, list(units.values()), max_tokens)
    else:
        plans = _fill_shared(rows, list(units.values()), max_tokens, share_from)
    return [_collate(plan, rows, device, share_from) for plan in plans]


Unit = list[int]
"""Indices of rows that stay together."""


def _fill(rows: Sequence[Row], units: Iterable[Unit], max_tokens: int) -> list[list[Unit]]:
    """First fit, the longest first: close to the fewest lines that there can be."""
    sizes = [(sum(rows[index].trained_until for index in unit), unit) for unit in units]
    plans: list[list[Unit]] = []
    free: list[int] = []
    for size, unit in sorted(sizes, key=lambda sized: -sized[0]):
        plan = next((plan for plan, room in enumerate(free) if room >= size), len(plans))
        if plan == len(plans):
            plans.append([])
            free.append(max_tokens)
        plans[plan].append(unit)
        free[plan] -= size
    return [sorted(plan) for plan in plans]


def _fill_shared(
    rows: Sequence[Row], units: Iterable[Unit], max_tokens: int, share_from: int
) -> list[list[Unit]]:
    """In the order of their tokens, neighbours have the most in common: each goes to the one before it."""
    plans: list[list[Unit]] = []
    used = 0
    for unit in sorted(units, key=lambda unit: _inputs(rows[unit[0]])):
        alone, more = 0, 0
        before: tuple[int, ...] = ()
        behind = _inputs(rows[plans[-1][-1][-1]]) if plans else ()
        for index in unit:
            ids = _inputs(rows[index])
            alone += len(ids) - _shared(before, ids, share_from)
            more += len(ids) - _shared(behind, ids, share_from)
            before = behind = ids
        if plans and used + more <= max_tokens:
            plans[-1].append(unit)
            used += more
        else:
            plans.append([unit])
            used = alone
    return plans


def _inputs(row: Row) -> tuple[int, ...]:
    """What a model must read to predict every trained token."""
    return row.tokens.ids[: row.trained_until]


def _shared(before: Sequence[int], ids: Sequence[int], share_from: int) -> int:
    """Tokens that a row takes over from its neighbour; one is always its own."""
    common = min(common_prefix(before, ids), len(ids) - 1)
    return common if common >= share_from else 0


def _collate(
    plan: Sequence[Unit], rows: Sequence[Row], device: torch.device, share_from: int | None
) -> MicroBatch:
    line: list[int] = []
    source: list[int] = []
    where: list[tuple[int, int]] = []
    runs: list[tuple[Span, ...]] = []
    before: tuple[int, ...] = ()
    for index in chain.from_iterable(plan):
        ids = _inputs(rows[index])
        shared = 0 if share_from is None else _shared(before, ids, share_from)
        spans = (*_first(runs[-1] if runs else (), shared), (len(line), len(line) + len(ids) - shared))
        at = list(chain.from_iterable(range(*span) for span in spans))
        positions = rows[index].trained
        source += [at[position - 1] for position in positions]
        where += [(index, position) for position in positions]
        line += ids[shared:]
        runs.append(spans)
        before = ids
    layout = Layout(spans=tuple(runs))
    targets = [rows[row].tokens.ids[position] for row, position in where]
    return MicroBatch(
        inputs_T=torch.tensor(line, device=device),
        positions_T=torch.tensor(layout.positions(), device=device),
        layout=layout,
        trained=Trained(
            source_N=torch.tensor(source, device=device),
            targets_N=torch.tensor(targets, device=device),
            where=tuple(where),
        ),
        units=tuple(sum(sum(rows[index].tokens.mask) for index in unit) for unit in plan),
    )


def _first(spans: Iterable[Span], num: int) -> list[Span]:
    """The first `num` tokens of some spans.

    >>> _first([(0, 4), (9, 12)], 6)
    [(0, 4), (9, 11)]
    """
    found: list[Span] = []
    for start, end in spans:
        if num <= 0:
            break
        found.append((start, min(end, start + num)))
        num -= end - start
    return found


def token_terms(part: Trained, rows: Sequence[Row], logprobs_N: Tensor, entropy_N: Tensor) -> TokenTerms:
    """Everything a loss reads, from the rows and what the model says of them."""
    old = [row.old_logprobs for row in rows]
    ref = [row.ref_logprobs for row in rows]
    lines = {row: line for line, row in enumerate(dict.fromkeys(row for row, _ in part.where))}
    return TokenTerms(
        logprobs_N=logprobs_N,
        entropy_N=entropy_N,
        engine_logprobs_N=_gather(part, [row.tokens.logprobs for row in rows], logprobs_N),
        old_logprobs_N=_gather_optional(part, old, logprobs_N),
        ref_logprobs_N=_gather_optional(part, ref, logprobs_N),
        advantages_N=_gather(part, [row.advantages for row in rows], logprobs_N),
        row_N=torch.tensor([lines[row] for row, _ in part.where], device=logprobs_N.device),
        turn_N=_numbered(((row, rows[row].turns[position]) for row, position in part.where), logprobs_N),
        episode_N=_numbered((rows[row].key for row, _ in part.where), logprobs_N),
    )


def _numbered(names: Iterable[object], like: Tensor) -> Tensor:
    """[N] int64: equal names, equal numbers, from 0."""
    numbers: dict[object, int] = {}
    found = [numbers.setdefault(name, len(numbers)) for name in names]
    return torch.tensor(found, device=like.device)


def token_weights(part: Trained, rows: Sequence[Row], normaliser: Normaliser, like: Tensor) -> Tensor:
    """[N] what each token counts in the step's loss."""
    weights = {row: normaliser.weights(rows[row]) for row in dict.fromkeys(row for row, _ in part.where)}
    return _tensor((weights[row][position] for row, position in part.where), like)


def scatter(part: Trained, values_N: Tensor, into: Sequence[list[float]]) -> None:
    """Write one value a token to its [row][position]."""
    for (row, position), value in zip(part.where, to_list(values_N), strict=True):
        into[row][position] = value


def _gather(part: Trained, values: Sequence[Sequence[float]], like: Tensor) -> Tensor:
    return _tensor((values[row][position] for row, position in part.where), like)


def _gather_optional(part: Trained, values: Sequence[Sequence[float] | None], like: Tensor) -> Tensor | None:
    present = [row_values for row_values in values if row_values is not None]
    if not present:
        return None
    if len(present) != len(values):
        raise ValueError(f"{len(present)} of {len(values)} rows have old or ref logprobs; all or none must")
    return _gather(part, present, like)


def _tensor(values: Iterable[float], like: Tensor) -> Tensor:
    return torch.tensor(list(values), dtype=like.dtype, device=like.device)
