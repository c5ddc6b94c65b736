"""Rows to micro-batches. T: tokens of a micro-batch, N: its trained tokens.

A micro-batch is one line: its rows stand one after the other, without padding, and each counts its positions
from 0. `attention.Layout` keeps them apart. With shared prefixes, what rows begin with in common stands in
the line once.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, pairwise

import torch
from torch import Tensor

from ...agents.tokengraph import common_prefix
from .._torch import to_list
from ..objective.terms import Level
from .attention import Layout, Span
from .rows import Row


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """Some trained tokens, row by row, in order."""

    source_N: Tensor
    """int64 index into the line: where a token was predicted."""
    targets_N: Tensor
    """int64 ids of the trained tokens."""
    where: tuple[tuple[int, int], ...] = field(repr=False)
    """[N] (row, position) of each trained token, in the batch's numbering."""
    first: int = 0
    """Trained tokens of the batch that come before, in earlier micro-batches and in this one."""

    @property
    def place(self) -> slice:
        """Among all trained tokens of the batch."""
        return slice(self.first, self.first + len(self.where))

    def cut(self, start: int, end: int) -> "Trained":
        """Some of them."""
        return Trained(
            source_N=self.source_N[start:end],
            targets_N=self.targets_N[start:end],
            where=self.where[start:end],
            first=self.first + start,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class MicroBatch:
    """One forward and backward pass over some rows of a batch."""

    inputs_T: Tensor
    """int64 token ids, of each row up to the one before its last trained token: nothing looks at the rest."""
    positions_T: Tensor
    """int64, where a token stands in its row."""
    layout: Layout
    trained: Trained
    parts: tuple[Trained, ...] = field(repr=False)
    """The same, in what goes through the head together."""


def micro_batches(
    rows: Sequence[Row],
    max_tokens: int,
    device: torch.device,
    *,
    share_from: int | None = None,
    level: Level = "token",
    max_trained: int | None = None,
) -> list[MicroBatch]:
    """Every row with a trained token, once. A row longer than `max_tokens` gets a micro-batch of its own;
    at the level "episode", so does an episode whose rows are.

    `share_from`: what neighbours in a micro-batch begin with in common is computed once, from so many tokens
    on; None: never. A part has at most `max_trained` trained tokens, None: all, or is one larger unit of the
    `level`: an episode; for a turn, which lies in one, a row.
    """
    units: dict[object, list[int]] = {}
    for index, row in enumerate(rows):
        if row.trained_until:
            units.setdefault(row.key if level == "episode" else index, []).append(index)
    if share_from is None:
        plans = _fill(rows, list(units.values()), max_tokens)
    else:
        plans = _fill_shared(rows, list(units.values()), max_tokens, share_from)
    found: list[MicroBatch] = []
    first = 0
    for plan in plans:
        micro = _collate(plan, rows, device, share_from, first)
        first += len(micro.trained.where)
        sizes = [sum(sum(rows[index].tokens.mask) for index in unit) for unit in plan]
        parts = _parts(micro.trained, [1] * sum(sizes) if level == "token" else sizes, max_trained)
        found.append(replace(micro, parts=parts))
    return found


def _parts(trained: Trained, sizes: Iterable[int], max_trained: int | None) -> tuple[Trained, ...]:
    """`sizes`: of units that are never cut, in order."""
    starts, end = [0], 0
    for size in sizes:
        if max_trained is not None and starts[-1] < end and end + size - starts[-1] > max_trained:
            starts.append(end)
        end += size
    return tuple(trained.cut(start, stop) for start, stop in pairwise([*starts, end]))


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
    plan: Sequence[Unit], rows: Sequence[Row], device: torch.device, share_from: int | None, first: int
) -> MicroBatch:
    """One part. `first`: as in `Trained`."""
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
    trained = Trained(
        source_N=torch.tensor(source, device=device),
        targets_N=torch.tensor(targets, device=device),
        where=tuple(where),
        first=first,
    )
    return MicroBatch(
        inputs_T=torch.tensor(line, device=device),
        positions_T=torch.tensor(layout.positions(), device=device),
        layout=layout,
        trained=trained,
        parts=(trained,),
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


def spread(
    parts: Iterable[Trained], values: Sequence[Tensor], rows: Sequence[Row]
) -> tuple[tuple[float, ...], ...]:
    """[rows][T] from one value for each trained token, [parts][N]; 0.0 elsewhere. Reads from the device."""
    found = [[0.0] * len(row.tokens.ids) for row in rows]
    flat = to_list(torch.cat(list(values))) if values else []
    where = chain.from_iterable(part.where for part in parts)
    for (row, position), value in zip(where, flat, strict=True):
        found[row][position] = value
    return tuple(map(tuple, found))
