"""Supervised fine-tuning: the negative log-likelihood of the trained tokens. Advantages are not read.

loss_n = - log pi_n
"""

from dataclasses import dataclass
from typing import ClassVar

from ..objective.terms import LossTerms, TokenTerms


@dataclass(frozen=True, kw_only=True, slots=True)
class Sft:
    is_supervised: ClassVar[bool] = True

    def __call__(self, tokens: TokenTerms) -> LossTerms:
        return LossTerms(loss_N=-tokens.logprobs_N)
