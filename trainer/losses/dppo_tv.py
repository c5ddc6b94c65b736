"""Divergence PPO, total variation (arXiv 2602.04879): a token is let go when its probability, not its ratio,
has moved too far. A rare token may double; a common one may not.

    loss_n = - M_n * r_n * A_n
    M_n = 0 where |pi_n - anchor_n| > delta and the step leads further away, that is where A_n > 0 and r_n > 1
    or A_n < 0 and r_n < 1; else 1
"""

from dataclasses import dataclass

from ..objective.terms import LossTerms, TokenTerms, ratio, watched


@dataclass(frozen=True, kw_only=True, slots=True)
class DppoTv:
    delta: float = 0.15
    """Of the probability, 0 .. 1."""

    def __post_init__(self) -> None:
        if not 0 < self.delta <= 1:
            raise ValueError(f"{self}: needs 0 < delta <= 1")

    def __call__(self, tokens: TokenTerms) -> LossTerms:
        ratio_N, advantages_N = ratio(tokens), tokens.advantages_N
        moved_N = (tokens.logprobs_N.exp() - tokens.anchor_logprobs_N.exp()).detach()
        is_let_go_N = (moved_N.abs() > self.delta) & (moved_N * advantages_N > 0)
        loss_N = -ratio_N.masked_fill(is_let_go_N, 0.0) * advantages_N
        return watched(tokens, ratio_N, loss_N=loss_N, clip_fraction=is_let_go_N)
