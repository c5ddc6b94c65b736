"""What keeps the policy near a reference. With d = log pi - log ref of a token:

    k1    A_t - beta * sum(d_s, s >= t)    in the reward: each token pays for all that come after it
    k2    r' * d^2 / 2                     in the loss; r': pi / the policy that sampled, a constant
    k3    r * (exp(-d) + d - 1)            in the loss; the gradient flows through r too

k2 and k3 have the gradient r * d * grad(log pi): in expectation that of KL(pi || ref) of each token,
whichever policy sampled, as far as r is pi over that policy. It is the ratio times the correction: where that
is capped, masked, or of a turn or an episode, the penalty is weighed as the loss is, and biased as it is, to
bound the variance; the same for a `level` over the token's. k3 without r would have that of KL(ref || pi).
k3 is the one whose value is unbiased. k1 in the reward has the gradient of the KL between whole episodes. k1
in the loss would have none in expectation, and k2 or k3 in the reward a wrong one, so neither can be asked
for.
J. Schulman, joschu.net/blog/kl-approx.html; DeepSeek-V3.2, arXiv 2512.02556, section 3.1; arXiv 2512.21852.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal

import torch
from torch import Tensor

from ...agents.trajectory import EpisodeKey
from ..batches.rows import Row
from .terms import Level, TokenTerms, bounded_exp, check_level, log_ratio


@dataclass(frozen=True, kw_only=True, slots=True)
class KlPenalty:
    """In the loss."""

    coefficient: float
    """The loss grows by this times the divergence, nats a token."""
    kind: Literal["k2", "k3"] = "k3"
    level: Level = "token"
    """Of the ratio. TRL takes the loss's; only the token's own gives the gradient of the divergence."""

    def __post_init__(self) -> None:
        check_level(self.level)
        if self.kind not in ("k2", "k3"):
            raise ValueError(
                f"KlPenalty.kind is {self.kind!r}; in the loss it is k2 or k3; k1 belongs into the reward, "
                "see kl_in_reward"
            )

    def __call__(self, tokens: TokenTerms) -> Tensor:
        """[N] the divergence, before the coefficient."""
        if tokens.ref_logprobs_N is None:
            raise ValueError(
                "a KL penalty needs rows with ref_logprobs; learner.reference_logprobs gives them"
            )
        log_ratio_N, gap_N = log_ratio(tokens, self.level), tokens.logprobs_N - tokens.ref_logprobs_N
        if self.kind == "k2":
            found_N = bounded_exp(log_ratio_N).detach() * gap_N.square() / 2
        else:
            found_N = _k3(log_ratio_N, gap_N)
        return found_N if tokens.correction_N is None else found_N * tokens.correction_N


def _k3(log_ratio_N: Tensor, gap_N: Tensor) -> Tensor:
    """r * (exp(-d) + d - 1), exact near d = 0 as well. Where the policy has let a token go, r may be 0 and
    exp(-d) inf, whose product is an ordinary number: there r * (exp(-d) - 1) is exp(log r - d) * (1 -
    exp(d))."""
    below_N = -torch.relu(-gap_N)  # d where that is negative, else 0
    above_N = gap_N - below_N
    grown_N = bounded_exp(log_ratio_N) * (torch.expm1(-above_N) + gap_N)
    return grown_N - bounded_exp(log_ratio_N - below_N) * torch.expm1(below_N)


def kl_in_reward(rows: Sequence[Row], coefficient: float) -> list[Row]:
    """The rows with k1 in their advantages, which are in units of the advantage.

    d is of the policy that sampled, as the engine reports it. The baseline of an episode's n-th token is the
    mean of what its siblings' n-th tokens pay, of those among the rows: no choice of the episode's own moves
    it, and without siblings it is 0. An episode's rows stand together, in the order in which they were
    sampled.
    """
    paid = _to_go(rows)
    changed: list[Row] = []
    for key, own in groupby(rows, key=lambda row: row.key):
        others = [found for sibling, found in paid.items() if sibling != key and _task(sibling) == _task(key)]
        at = 0
        for row in own:
            advantages = list(row.advantages)
            for position in row.trained:
                baseline = sum(other[at] for other in others if at < len(other)) / max(len(others), 1)
                advantages[position] -= coefficient * (paid[key][at] - baseline)
                at += 1
            changed.append(replace(row, advantages=tuple(advantages)))
    return changed


def _to_go(rows: Sequence[Row]) -> Mapping[EpisodeKey, list[float]]:
    """By episode, for each of its tokens: the sum of d from there to its end."""
    found: dict[EpisodeKey, list[float]] = {}
    for row in rows:
        if row.ref_logprobs is None:
            raise ValueError("k1 needs rows with ref_logprobs; learner.reference_logprobs gives them")
        found.setdefault(row.key, []).extend(
            row.tokens.logprobs[position] - row.ref_logprobs[position] for position in row.trained
        )
    for gaps in found.values():
        for at in range(len(gaps) - 2, -1, -1):
            gaps[at] += gaps[at + 1]
    return found


def _task(key: EpisodeKey) -> tuple[str, int, str]:
    return key.split, key.epoch, key.task_id
