"""Gradients in expectation, over every sequence of two tokens, against those of the exact objective."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pytest
import torch
from token_terms import grad, tensor, terms
from torch import Tensor
from trainer_builders import make_row, values_of

from palaestra.trainer.batches.rows import Row
from palaestra.trainer.losses import load_loss, loss_names
from palaestra.trainer.objective.correction import Correction
from palaestra.trainer.objective.kl import KlPenalty, kl_in_reward
from palaestra.trainer.objective.objective import Objective

VOCAB = 3
SEQUENCES = list(itertools.product(range(VOCAB), repeat=2))


@dataclass(frozen=True)
class Policy:
    """A distribution of the first token, and one of the second after each first."""

    logits: Tensor
    """[VOCAB + 1, VOCAB]"""

    @cached_property
    def logprobs(self) -> Tensor:
        return self.logits.log_softmax(1)

    def of(self, sequence: Sequence[int]) -> Tensor:
        """[2] logprobs of the tokens of a sequence."""
        first, second = sequence
        return torch.stack([self.logprobs[0, first], self.logprobs[1 + first, second]])

    def chance(self, sequence: Sequence[int]) -> Tensor:
        return self.of(sequence).sum().exp()


def policy(seed: int) -> Policy:
    draw = torch.Generator().manual_seed(seed)
    return Policy(torch.randn(VOCAB + 1, VOCAB, generator=draw, dtype=torch.float64).requires_grad_())


def assert_exact(found: Tensor, exact: Tensor) -> None:
    assert float(exact.abs().max()) > 1e-3
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-12)


def reward(sequence: Sequence[int]) -> float:
    return math.sin(1 + 3 * sequence[0] + 5 * sequence[1])


PI, MU, REF = policy(0), policy(1), policy(2)


def expected(
    objective: Objective, advantages: Callable[[Sequence[int]], Sequence[float]], *, sampler: Policy = PI
) -> Tensor:
    """The gradient of the objective's sum over tokens, weighed by how often the sampler makes the
    sequence."""
    total = tensor(0.0).sum()
    for sequence in SEQUENCES:
        tokens = terms(
            PI.of(sequence),
            tensor(*advantages(sequence)),
            sampler.of(sequence).detach(),
            old_logprobs_N=PI.of(sequence).detach(),
            ref_logprobs_N=REF.of(sequence).detach(),
        )
        total = total + sampler.chance(sequence).detach() * objective(tokens).loss_N.sum()
    return grad(total, PI.logits)


def whole(sequence: Sequence[int]) -> list[float]:
    """The episode's reward on each of its tokens."""
    return [reward(sequence)] * 2


def exact_policy_gradient() -> Tensor:
    return grad(-sum((PI.chance(s) * reward(s) for s in SEQUENCES), start=tensor(0.0).sum()), PI.logits)


@pytest.mark.parametrize("loss", sorted({*loss_names()} - {"sft"}))
def test_on_policy_every_loss_has_the_exact_policy_gradient(loss: str) -> None:
    objective = Objective(loss=load_loss(loss))
    assert_exact(expected(objective, whole), exact_policy_gradient())


def test_a_group_baseline_and_credit_of_turns_leave_the_policy_gradient_exact() -> None:
    """Turn rewards f(first) and g(both): the second token need not be paid for the first turn's."""

    def to_go(sequence: Sequence[int]) -> list[float]:
        first, second = float(sequence[0] == 1), reward(sequence)
        return [first + second + 7.0, second - 3.0]  # any constants

    exact = grad(
        -sum((PI.chance(s) * (float(s[0] == 1) + reward(s)) for s in SEQUENCES), start=tensor(0.0).sum()),
        PI.logits,
    )
    found = expected(Objective(loss=load_loss("ppo_clip")), to_go)
    assert_exact(found, exact)


def test_off_policy_the_weight_of_the_whole_episode_is_exact_and_that_of_a_token_is_not() -> None:
    loss = load_loss("importance_sampling")
    unbounded = Correction(level="episode", high=math.inf)
    found = expected(Objective(loss=loss, correction=unbounded), whole, sampler=MU)
    assert_exact(found, exact_policy_gradient())

    token = expected(Objective(loss=loss, correction=Correction(high=math.inf)), whole, sampler=MU)
    none = expected(Objective(loss=loss, correction=None), whole, sampler=MU)
    gaps = [float((each - exact_policy_gradient()).abs().max()) for each in (token, none)]
    assert 1e-3 < gaps[0] < gaps[1]


# --- KL ---


def per_token_kl_gradient() -> Tensor:
    """Of KL(pi || ref) at each prefix, prefixes as often as pi makes them: a constant."""
    kl_P = (PI.logprobs.exp() * (PI.logprobs - REF.logprobs.detach())).sum(1)
    prefix_P = torch.cat([torch.ones(1, dtype=torch.float64), PI.logprobs[0].exp().detach()])
    return grad((prefix_P * kl_P).sum(), PI.logits)


def zero(sequence: Sequence[int]) -> list[float]:
    return [0.0, 0.0]


@pytest.mark.parametrize("kind", ["k2", "k3"])
def test_k2_and_k3_in_the_loss_have_the_gradient_of_each_tokens_divergence(kind: Any) -> None:
    objective = Objective(loss=load_loss("ppo_clip"), kl=KlPenalty(coefficient=1.0, kind=kind))
    assert_exact(expected(objective, zero), per_token_kl_gradient())


def test_k3_without_its_ratio_has_the_gradient_of_the_other_divergence() -> None:
    """Why TRL is compared with `use_bias_correction_kl`."""
    total, reverse = tensor(0.0).sum(), tensor(0.0).sum()
    for first in range(VOCAB):
        gap = PI.logprobs[0, first] - REF.logprobs[0, first].detach()
        total = total + PI.logprobs[0, first].exp().detach() * ((-gap).exp() + gap - 1)
        reverse = reverse - REF.logprobs[0, first].exp().detach() * PI.logprobs[0, first]
    assert_exact(grad(total, PI.logits), grad(reverse, PI.logits))


def test_k1_in_the_loss_has_no_gradient_in_expectation_and_is_refused() -> None:
    total = tensor(0.0).sum()
    for sequence in SEQUENCES:
        gap = PI.of(sequence) - REF.of(sequence).detach()
        total = total + PI.chance(sequence).detach() * gap.sum()
    assert float(grad(total, PI.logits).abs().max()) < 1e-12
    kind: Any = "k1"
    with pytest.raises(ValueError, match="k1 belongs into the reward"):
        KlPenalty(coefficient=1.0, kind=kind)


def row_of(sequence: Sequence[int], sample: int) -> Row:
    logprobs, ref = values_of(PI.of(sequence)), values_of(REF.of(sequence))
    row = make_row(
        [0, *sequence], [False, True, True], sample=sample, advantage=0.0, logprobs=[0.0, *logprobs]
    )
    return Row(
        key=row.key, tokens=row.tokens, advantages=row.advantages, episode_tokens=2, ref_logprobs=(0.0, *ref)
    )


def test_k1_in_the_reward_has_the_gradient_of_the_divergence_of_whole_episodes() -> None:
    """Over every pair of siblings, so that their baseline is in it."""
    total = tensor(0.0).sum()
    for one, other in itertools.product(SEQUENCES, repeat=2):
        chance = (PI.chance(one) * PI.chance(other)).detach()
        for row, sequence in zip(
            kl_in_reward([row_of(one, 0), row_of(other, 1)], 1.0), (one, other), strict=True
        ):
            advantages = tensor(*(row.advantages[at] for at in row.trained))
            total = total - chance * (advantages * PI.of(sequence)).sum() / 2
    gaps = (PI.chance(s) * (PI.of(s) - REF.of(s).detach()).sum() for s in SEQUENCES)
    exact = grad(sum(gaps, start=tensor(0.0).sum()), PI.logits)
    assert_exact(grad(total, PI.logits), exact)
    assert float((exact - per_token_kl_gradient()).abs().max()) > 1e-3, "another one than the tokens'"


def test_k1_in_the_reward_needs_the_reference_and_leaves_untrained_tokens_alone() -> None:
    row = row_of((1, 2), 0)
    (alone,) = kl_in_reward([row], 0.5)
    gaps = [row.tokens.logprobs[at] - row.ref_logprobs[at] for at in (1, 2)] if row.ref_logprobs else []
    assert alone.advantages == pytest.approx((0.0, -0.5 * sum(gaps), -0.5 * gaps[1]))
    with pytest.raises(ValueError, match="ref_logprobs"):
        kl_in_reward([make_row([1, 2], [False, True])], 0.5)


def test_the_entropy_bonus_has_the_gradient_of_the_entropy() -> None:
    entropy_P = -(PI.logprobs.exp() * PI.logprobs).sum(1)
    tokens = terms(PI.of((0, 1)), tensor(0.0, 0.0), MU.of((0, 1)).detach(), entropy_N=entropy_P[:2])
    found = Objective(loss=load_loss("ppo_clip"), entropy_bonus=0.5)(tokens).loss_N.sum()
    assert_exact(grad(found, PI.logits), -0.5 * grad(entropy_P[:2].sum(), PI.logits))
