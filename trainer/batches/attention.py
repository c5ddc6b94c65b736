"""Attention over a line that holds many rows, in which no row can see another.

A row's keys are cut out of the line before its queries meet them: there is no mask that could let a
neighbour through, and no square of the line to pay for. T: tokens of the line.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import PreTrainedModel

from .._torch import plain_attention, set_attention, split

NAME = "palaestra_rows"
"""Of this attention in transformers' registry."""

Span = tuple[int, int]
"""[start, end) in the line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """Where rows stand in a line. A run is what a row does not share with the ones before it."""

    spans: tuple[tuple[Span, ...], ...] = field(repr=False)
    """[runs] what a run sees, in order of position; the last span is the run itself. Runs fill the line."""
    lengths: list[int] = field(init=False, repr=False)
    """[runs] tokens."""
    _pieces: list[int] = field(init=False, repr=False)
    """Lengths of the pieces into which the keys are cut."""
    _seen: tuple[tuple[int, ...], ...] = field(init=False, repr=False)
    """[runs] which pieces a run sees."""
    _masks: dict[tuple[object, ...], Tensor] = field(init=False, repr=False, compare=False)
    """What was made for one layer, for the next."""

    def __post_init__(self) -> None:
        own = [spans[-1] for spans in self.spans]
        if [0, *(end for _, end in own)] != [*(start for start, _ in own), own[-1][1]]:
            raise AssertionError(f"the runs {own} do not fill the line one after the other")
        cuts = sorted({0, *chain.from_iterable(chain.from_iterable(self.spans))})
        at = {cut: piece for piece, cut in enumerate(cuts)}
        seen = (
            chain.from_iterable(range(at[start], at[end]) for start, end in spans) for spans in self.spans
        )
        object.__setattr__(self, "lengths", [end - start for start, end in own])
        object.__setattr__(self, "_pieces", [right - left for left, right in pairwise(cuts)])
        object.__setattr__(self, "_seen", tuple(tuple(pieces) for pieces in seen))
        object.__setattr__(self, "_masks", {})

    def keys(self, line: Tensor) -> list[Tensor]:
        """[1, heads, T, head_dim] keys or values of the line to what each run sees of them."""
        pieces = split(line, self._pieces)
        return [_joined([pieces[piece] for piece in seen]) for seen in self._seen]

    def mask(self, queries: Tensor, keys: Tensor, window: int | None) -> Tensor | None:
        """[queries, keys] 0 where a query sees a key, else -inf. The queries are the last tokens of a row.

        None for plain causal attention, which is faster.
        """
        num, seen = queries.shape[2], keys.shape[2]
        if num == seen and (window is None or window >= seen):
            return None
        kind = (num, seen, window, queries.dtype, keys.device)
        if kind not in self._masks:
            at = torch.arange(seen, device=keys.device)
            behind = at[seen - num :, None] - at
            hidden = behind < 0 if window is None else (behind < 0) | (behind >= window)
            zeros = torch.zeros(hidden.shape, dtype=queries.dtype, device=keys.device)
            self._masks[kind] = zeros.masked_fill_(hidden, -torch.inf)
        return self._masks[kind]

    @property
    def num_pairs(self) -> int:
        """Pairs of a query and a key that it sees, itself included."""
        seen = (sum(end - start for start, end in spans) for spans in self.spans)
        return sum(
            own * (whole - own) + own * (own + 1) // 2 for whole, own in zip(seen, self.lengths, strict=True)
        )

    def positions(self) -> list[int]:
        """[T] where a token stands in its row."""
        found: list[int] = []
        for spans, length in zip(self.spans, self.lengths, strict=True):
            shared = sum(end - start for start, end in spans) - length
            found += range(shared, shared + length)
        return found


def separate_rows(model: PreTrainedModel) -> None:
    """Let the model attend by a `Layout`, in place. A call without one attends as before.

    Raises `ValueError` for a model whose attention cannot be exchanged.
    """
    if not set_attention(model, NAME, attend):
        raise ValueError(
            f"{type(model).__name__} brings an attention of its own, in which packed rows would see each "
            "other; use a model whose attention is an option of transformers (Llama, Qwen, Mistral ...)"
        )


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    layout: Layout | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """[1, T, heads, head_dim] by transformers' protocol for attention functions."""
    if layout is None:
        if attention_mask is not None and not attention_mask.numel():
            raise ValueError(
                f"{type(module).__name__} did not get the layout of its rows; they cannot be packed"
            )
        more = {"scaling": scaling, "sliding_window": sliding_window, "softcap": softcap, **kwargs}
        return plain_attention(module, query, key, value, attention_mask, **more)
    if softcap is not None or kwargs.get("s_aux") is not None:
        raise ValueError(
            f"{type(module).__name__} has capped scores or sinks, which packed rows do not have yet"
        )
    found: list[Tensor] = []
    for queries, keys, values in zip(
        split(query, layout.lengths), layout.keys(key), layout.keys(value), strict=True
    ):
        mask = layout.mask(queries, keys, sliding_window)
        attended = scaled_dot_product_attention(
            queries, keys, values, attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=True
        )
        found.append(attended.transpose(1, 2))
    return torch.cat(found, dim=1), None


def _joined(pieces: Sequence[Tensor]) -> Tensor:
    return pieces[0] if len(pieces) == 1 else torch.cat(list(pieces), dim=2)
