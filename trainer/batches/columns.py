"""What is known of a batch's trained tokens before the model speaks: put on the device once, then cut.

N: trained tokens of all parts of the batch's micro-batches, in their order; of one part, where a part is cut.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from ..objective.terms import TokenTerms
from .packing import MicroBatch, Trained
from .rows import Batch, Normaliser


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """As in `TokenTerms`, of a whole batch."""

    engine_logprobs_N: Tensor
    old_logprobs_N: Tensor | None
    ref_logprobs_N: Tensor | None
    advantages_N: Tensor
    weights_N: Tensor
    """What a token counts in the step's loss."""
    row_N: Tensor
    """int64, counted from 0 in each part; so are turns and episodes."""
    turn_N: Tensor
    episode_N: Tensor
    is_fresh: bool
    """The learner's own logprobs are the old ones."""

    @classmethod
    def of(
        cls, batch: Batch, micros: Sequence[MicroBatch], normaliser: Normaliser, *, dtype: torch.dtype
    ) -> "Columns":
        """`normaliser`: of the step, over all ranks."""
        rows, parts = batch.rows, [part for micro in micros for part in micro.parts]
        device = micros[0].inputs_T.device if micros else None

        def column(values: Sequence[Sequence[float]]) -> Tensor:
            found = [values[row][at] for part in parts for row, at in part.where]
            return torch.tensor(found, dtype=dtype, device=device)

        def optional(values: Sequence[Sequence[float] | None]) -> Tensor | None:
            present = [each for each in values if each is not None]
            if present and len(present) != len(values):
                raise ValueError(
                    f"{len(present)} of {len(values)} rows have old or ref logprobs; all or none must"
                )
            return column(present) if present else None

        def numbers(name: Callable[[int, int], object]) -> Tensor:
            found = chain.from_iterable(_numbered(name(*at) for at in part.where) for part in parts)
            return torch.tensor(list(found), dtype=torch.int64, device=device)

        return cls(
            engine_logprobs_N=column([row.tokens.logprobs for row in rows]),
            old_logprobs_N=optional([row.old_logprobs for row in rows]),
            ref_logprobs_N=optional([row.ref_logprobs for row in rows]),
            advantages_N=column([row.advantages for row in rows]),
            weights_N=column([normaliser.weights(row) if row.trained else () for row in rows]),
            row_N=numbers(lambda row, at: row),
            turn_N=numbers(lambda row, at: (row, rows[row].turns[at])),
            episode_N=numbers(lambda row, at: rows[row].key),
            is_fresh=batch.is_fresh,
        )

    def terms(self, part: Trained, logprobs_N: Tensor, entropy_N: Tensor) -> TokenTerms:
        """What a loss reads of a part: with what the model says of it."""
        at = part.place
        old_N, ref_N = self.old_logprobs_N, self.ref_logprobs_N
        if self.is_fresh:
            old_N = logprobs_N.detach()
        elif old_N is not None:
            old_N = old_N[at]
        return TokenTerms(
            logprobs_N=logprobs_N,
            entropy_N=entropy_N,
            engine_logprobs_N=self.engine_logprobs_N[at],
            old_logprobs_N=old_N,
            ref_logprobs_N=None if ref_N is None else ref_N[at],
            advantages_N=self.advantages_N[at],
            row_N=self.row_N[at],
            turn_N=self.turn_N[at],
            episode_N=self.episode_N[at],
        )


def _numbered(names: Iterable[object]) -> list[int]:
    """Equal names, equal numbers, from 0.

    >>> _numbered("abac")
    [0, 1, 0, 2]
    """
    numbers: dict[object, int] = {}
    return [numbers.setdefault(name, len(numbers)) for name in names]
