"""A loss that recipes of tests name, as "broken_losses:NoNumber"."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import ClassVar

from palaestra.trainer.objective.terms import LossTerms, TokenTerms


@dataclass(frozen=True, kw_only=True, slots=True)
class NoNumber:
    """Not finite, but for each `good`-th of the calls in a process."""

    good: int | None = None
    _calls: ClassVar[Iterator[int]] = count(1)

    def __call__(self, tokens: TokenTerms) -> LossTerms:
        is_good = self.good is not None and next(self._calls) % self.good == 0
        return LossTerms(loss_N=tokens.logprobs_N * (1.0 if is_good else float("nan")))
