"""Soft adaptive policy optimisation (arXiv 2511.20347): a smooth gate in place of the clip.

    loss_n = - sigmoid(tau * (r_n - 1)) * 4 / tau * A_n                  tau: 1.0 where A_n > 0, else 1.05

The gradient's weight is 4 * p * (1 - p) * r with p the sigmoid: 1 at r = 1, and it fades on either side.
"""

from dataclasses import dataclass
from typing import ClassVar

from ..objective.terms import (
    Level,
    LossTerms,
    TokenTerms,
    check_level,
    ratio,
    watched,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sapo:
    tau_positive: float = 1.0
    tau_negative: float = 1.05
    level: Level = "token"
    aggregation: ClassVar[str] = "episode"

    def __post_init__(self) -> None:
        check_level(self.level)
        if self.tau_positive <= 0 or self.tau_negative <= 0:
            raise ValueError(f"{self}: tau_positive and tau_negative must be over 0")

    def __call__(self, tokens: TokenTerms) -> LossTerms:
        ratio_N, advantages_N = ratio(tokens, self.level), tokens.advantages_N
        tau_N = advantages_N.new_full(advantages_N.shape, self.tau_negative)
        tau_N = tau_N.masked_fill(advantages_N > 0, self.tau_positive)
        gate_N = (tau_N * (ratio_N - 1)).sigmoid()
        loss_N = -gate_N * 4 / tau_N * advantages_N
        return watched(tokens, ratio_N, loss_N=loss_N, gate=4 * gate_N * (1 - gate_N))
