"""Losses against closed forms, enumeration and finite differences."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from token_terms import grad, tensor, terms
from torch import Tensor
from trainer_builders import gradients, make_learner, on_policy, random_rows, values_of

from palaestra.trainer import losses
from palaestra.trainer.batches.rows import Aggregation, make_batch
from palaestra.trainer.losses import load_loss, loss_names
from palaestra.trainer.losses.ppo_clip import PpoClip
from palaestra.trainer.losses.sft import Sft
from palaestra.trainer.objective.correction import Correction
from palaestra.trainer.objective.kl import KlPenalty, kl_in_reward
from palaestra.trainer.objective.objective import Objective
from palaestra.trainer.objective.terms import LossTerms, TokenTerms

# --- ppo_clip ---


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "is_clipped"),
    [
        (1.0, 2.0, -2.0, False),
        (1.5, 2.0, -2.0 * 1.28, True),
        (1.5, -2.0, 2.0 * 1.5, False),
        (0.5, 2.0, -2.0 * 0.5, False),
        (0.5, -2.0, 2.0 * 0.8, True),
    ],
)
def test_ppo_clip_is_pessimistic_on_either_side(
    ratio: float, advantage: float, loss: float, is_clipped: bool
) -> None:
    engine_N = tensor(-3.0)
    logprobs_N = (engine_N + math.log(ratio)).requires_grad_()
    found = PpoClip(clip_low=0.2, clip_high=0.28)(terms(logprobs_N, tensor(advantage), engine_N))
    assert float(found.loss_N.detach()) == pytest.approx(loss)
    assert bool(found.means["clip_fraction"]) is is_clipped
    slope = 0.0 if is_clipped else -ratio * advantage
    assert float(grad(found.loss_N.sum(), logprobs_N)) == pytest.approx(slope)


def test_with_old_logprobs_the_clip_is_around_them_and_the_engine_is_corrected_for_up_to_the_cap() -> None:
    engine_N, old_N = tensor(-3.0, -3.0), tensor(-3.0 + math.log(1.5), -3.0 + math.log(5.0))
    logprobs_N = (old_N + math.log(1.1)).requires_grad_()
    objective = Objective(loss=PpoClip(), correction=Correction(high=2.0))
    found = objective(terms(logprobs_N, tensor(1.0, 1.0), engine_N, old_logprobs_N=old_N))
    assert values_of(found.loss_N) == pytest.approx([-1.5 * 1.1, -2.0 * 1.1])
    assert values_of(found.means["clip_fraction"]) == [False, False]
    assert values_of(grad(found.loss_N.sum(), logprobs_N)) == pytest.approx([-1.5 * 1.1, -2.0 * 1.1])


@pytest.mark.parametrize("options", [{"clip_low": 0.0}, {"clip_low": 1.5}, {"clip_high": 0.0}])
def test_a_clip_that_makes_no_sense_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="needs 0 < clip_low < 1"):
        load_loss("ppo_clip", **options)


def test_over_all_actions_of_a_bandit_the_gradient_is_that_of_the_expected_advantage() -> None:
    theta_V = tensor(0.3, -0.2, 0.5, 0.0).requires_grad_()
    advantages_V = tensor(1.0, -0.5, 0.25, 2.0)
    engine_V = (theta_V.detach() + tensor(0.02, -0.05, 0.03, 0.01)).log_softmax(0)  # an engine slightly off
    logprobs_V = theta_V.log_softmax(0)
    loss_V = PpoClip()(terms(logprobs_V, advantages_V, engine_V)).loss_N
    ours = grad((engine_V.exp() * loss_V).sum(), theta_V)
    exact = grad(-(logprobs_V.exp() * advantages_V).sum(), theta_V)
    torch.testing.assert_close(ours, exact, rtol=0, atol=1e-14)


def test_on_policy_ratios_are_one_nothing_is_clipped_and_the_gradient_is_reinforce() -> None:
    learner = make_learner()
    batch = make_batch(on_policy(learner, random_rows(6)))
    report = learner.forward_backward(batch)
    assert report.metrics["ratio"] == pytest.approx(1.0, abs=1e-14)
    assert report.metrics["ratio_max"] == pytest.approx(1.0, abs=1e-14)
    assert report.metrics["clip_fraction"] == 0.0
    assert report.metrics["abs_log_ratio"] < 1e-14
    ours = gradients(learner)
    learner.forward_backward(batch, loss=f"{__name__}:Reinforce")
    torch.testing.assert_close(ours, gradients(learner), rtol=0, atol=1e-14)


# --- kl ---


def kl_bandit(kind: Any, coefficient: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """(value, its gradient, the exact gradient) of the penalty in expectation over the engine's samples."""
    theta_V = tensor(0.3, -0.2, 0.5, 0.0).requires_grad_()
    ref_V = tensor(-0.1, 0.4, 0.2, -0.7).log_softmax(0)
    engine_V = tensor(0.1, 0.1, 0.3, -0.2).log_softmax(0)
    logprobs_V = theta_V.log_softmax(0)
    tokens = terms(logprobs_V, torch.zeros(4), engine_V, ref_logprobs_N=ref_V)
    value = (engine_V.exp() * KlPenalty(coefficient=coefficient, kind=kind)(tokens)).sum()
    exact = (logprobs_V.exp() * (logprobs_V - ref_V)).sum()
    return value - exact, grad(value, theta_V), grad(exact, theta_V)


@pytest.mark.parametrize("kind", ["k2", "k3"])
def test_a_kl_penalty_has_the_gradient_of_the_divergence_whoever_sampled(kind: str) -> None:
    _, ours, exact = kl_bandit(kind)
    torch.testing.assert_close(ours, exact, rtol=0, atol=1e-14)


def test_k3_is_unbiased_and_k2_is_not() -> None:
    assert abs(float(kl_bandit("k3")[0].detach())) < 1e-14
    assert abs(float(kl_bandit("k2")[0].detach())) > 1e-3


def test_a_kl_penalty_without_reference_logprobs_is_refused() -> None:
    learner = make_learner()
    with pytest.raises(ValueError, match="reference_logprobs"):
        learner.forward_backward(make_batch(random_rows(2)), kl=KlPenalty(coefficient=0.1))


# --- every loss: finite differences ---


def with_all_logprobs(rows: list[Any], learner: Any) -> list[Any]:
    """Engine, old and reference policies, each a bit elsewhere, so that some ratios are clipped."""
    shifted: list[Any] = []
    for number, row in enumerate(on_policy(learner, rows, shift=0.1)):
        wobble = [0.25 * math.sin(3 * number + at) for at in range(len(row.tokens.ids))]
        old = tuple(value - by for value, by in zip(row.tokens.logprobs, wobble, strict=True))
        ref = tuple(value + by for value, by in zip(row.tokens.logprobs, wobble, strict=True))
        shifted.append(replace(row, old_logprobs=old, ref_logprobs=ref))
    return shifted


OBJECTIVES: list[dict[str, Any]] = [
    *({"loss": loss} for loss in loss_names() if loss not in ("cispo", "dppo_tv")),
    {"loss": "dppo_tv", "delta": 0.003},
    {"loss": "ppo_clip", "level": "turn"},
    {"loss": "sapo", "level": "episode"},
    {"loss": "ppo_clip", "correction": Correction(level="episode")},
    {"loss": "ppo_clip", "entropy_bonus": 0.2},
]


@pytest.mark.parametrize("kl", [None, KlPenalty(coefficient=0.3)], ids=["no_kl", "k3"])
@pytest.mark.parametrize("options", OBJECTIVES, ids=str)
def test_gradients_agree_with_finite_differences(options: dict[str, Any], kl: KlPenalty | None) -> None:
    for aggregation in ("token", "turn") if options == {"loss": "gspo"} else ("token",):
        check_slope(options | {"kl": kl}, aggregation)


@pytest.mark.parametrize("aggregation", list(Aggregation))
def test_gradients_agree_with_finite_differences_under_every_average(aggregation: Aggregation) -> None:
    check_slope({"loss": "ppo_clip"}, aggregation.value)


def check_slope(options: dict[str, Any], aggregation: str) -> None:
    """Of a loss without a constant in it."""
    learner = make_learner()
    max_tokens = 20 if aggregation == "constant" else None
    rows = with_all_logprobs(random_rows(5, longest=10), learner)
    batch = make_batch(rows, aggregation, max_tokens=max_tokens)
    report = learner.forward_backward(batch, **options)
    if "clip_fraction" in report.metrics and options["loss"] != "importance_sampling":
        assert 0.01 < report.metrics["clip_fraction"] < 0.99
    assert_slope(learner, gradients(learner), lambda: learner.forward_backward(batch, **options).loss)


def assert_slope(learner: Any, gradient: Tensor, value: Callable[[], float]) -> None:
    """Along a random direction of all weights."""
    direction = torch.randn(gradient.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    step, found = 1e-6, list[float]()
    for sign in (1, -2):
        move(learner, direction, sign * step)
        found.append(value())
    slope = (found[0] - found[1]) / (2 * step)
    assert slope == pytest.approx(float(gradient @ direction), rel=1e-6)


@dataclass(frozen=True, kw_only=True)
class Word:
    """What the policies say of a token; `start` is the trained one where the gradient was taken."""

    now: float
    start: float
    engine: float
    old: float
    ref: float
    advantage: float

    @property
    def correction(self) -> float:
        return min(math.exp(self.old - self.engine), 2.0)

    @property
    def ratio(self) -> float:
        """As the constant that it is under a `sg`."""
        return math.exp(self.start - self.old)

    @property
    def clipped(self) -> float:
        ratio = math.exp(self.now - self.old)
        return -min(ratio * self.advantage, min(max(ratio, 0.8), 1.28) * self.advantage)


CONSTANTS: dict[str, tuple[dict[str, Any], Callable[[Word], float]]] = {
    "cispo": (
        {"loss": "cispo", "max_ratio": 1.2},
        lambda word: -min(word.ratio, 1.2) * word.advantage * word.now * word.correction,
    ),
    "k2": (
        {"kl": KlPenalty(coefficient=0.3, kind="k2")},
        lambda word: word.correction * (word.clipped + 0.3 * word.ratio * (word.now - word.ref) ** 2 / 2),
    ),
    "k1": ({}, lambda word: word.correction * word.clipped),
}
"""Options, and by hand the loss of a token in which something is a constant to the gradient."""


@pytest.mark.parametrize("name", CONSTANTS)
def test_what_is_a_constant_to_the_gradient_is_held_fast_and_the_rest_agrees_with_finite_differences(
    name: str,
) -> None:
    """The slope is that of a formula by hand, in which the constants stay while the weights move."""
    options, by_hand = CONSTANTS[name]
    learner = make_learner()
    rows = with_all_logprobs(random_rows(5, longest=10), learner)
    if name == "k1":
        plain = rows
        rows = kl_in_reward(rows, 0.3)
        assert all(a.advantages != b.advantages for a, b in zip(plain, rows, strict=True))
    batch = make_batch(rows)
    report = learner.forward_backward(batch, **options)
    gradient = gradients(learner)

    def value() -> float:
        words = [
            Word(
                now=now[at],
                start=start[at],
                engine=row.tokens.logprobs[at],
                old=(row.old_logprobs or ())[at],
                ref=(row.ref_logprobs or ())[at],
                advantage=row.advantages[at],
            )
            for row, now, start in zip(rows, learner.logprobs(rows), report.logprobs, strict=True)
            for at in row.trained
        ]
        return math.fsum(map(by_hand, words)) / len(words)

    assert value() == pytest.approx(report.loss, abs=1e-13)
    assert_slope(learner, gradient, value)


def test_cispo_is_reinforce_with_advantages_that_were_weighed_beforehand() -> None:
    learner = make_learner()
    rows = with_all_logprobs(random_rows(5, longest=10), learner)
    report = learner.forward_backward(make_batch(rows), "cispo", correction=None, max_ratio=1.2)
    ours = gradients(learner)
    weighed = [
        replace(
            row,
            advantages=tuple(
                advantage * min(math.exp(now - old), 1.2)
                for advantage, now, old in zip(row.advantages, found, row.old_logprobs or (), strict=True)
            ),
        )
        for row, found in zip(rows, report.logprobs, strict=True)
    ]
    again = learner.forward_backward(make_batch(weighed), f"{__name__}:Reinforce", correction=None)
    assert again.loss == pytest.approx(report.loss, abs=1e-14)
    torch.testing.assert_close(ours, gradients(learner), rtol=0, atol=1e-14)
    check_slope({"loss": f"{__name__}:Reinforce"}, "token")


def move(learner: Any, direction: Tensor, by: float) -> None:
    start = 0
    for parameter in learner.parameters.values():
        parameter.data += by * direction[start : start + parameter.numel()].view_as(parameter)
        start += parameter.numel()


def test_sft_is_the_mean_negative_log_likelihood() -> None:
    found = Sft()(terms(tensor(-1.0, -3.0), tensor(5.0, 5.0), tensor(0.0, 0.0)))
    assert values_of(found.loss_N) == [1.0, 3.0]


# --- the registry ---


@dataclass(frozen=True, kw_only=True, slots=True)
class Reinforce:
    """A loss of somebody else's."""

    scale: float = 1.0

    def __call__(self, tokens: TokenTerms) -> LossTerms:
        return LossTerms(loss_N=-self.scale * tokens.advantages_N * tokens.logprobs_N)


def test_a_file_in_the_folder_is_a_loss_by_name() -> None:
    assert {"ppo_clip", "sft"} <= set(loss_names())
    for name in loss_names():
        assert callable(load_loss(name))


def test_a_new_file_is_a_new_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "half_sft.py").write_text(HALF_SFT)
    monkeypatch.setattr(losses, "__path__", [*losses.__path__, str(tmp_path)])
    assert "half_sft" in loss_names()
    learner = make_learner()
    batch = make_batch(random_rows(2))
    whole = learner.forward_backward(batch, "sft").loss
    assert learner.forward_backward(batch, "half_sft", scale=0.5).loss == pytest.approx(whole / 2)


HALF_SFT = """
from dataclasses import dataclass, replace
from palaestra.trainer.objective.terms import LossTerms, TokenTerms

@dataclass(frozen=True, kw_only=True)
class HalfSft:
    scale: float

    def __call__(self, tokens: TokenTerms) -> LossTerms:
        return LossTerms(loss_N=-self.scale * tokens.logprobs_N)
"""


def test_a_loss_of_ones_own_is_named_by_module_and_class() -> None:
    found = load_loss(f"{__name__}:Reinforce", scale=2.0)
    assert values_of(found(terms(tensor(-1.0), tensor(3.0), tensor(0.0))).loss_N) == [6.0]


def test_an_unknown_loss_or_option_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown loss 'ppo'; known: .*ppo_clip"):
        load_loss("ppo")
    with pytest.raises(ValueError, match=r"loss 'ppo_clip': clip: 0\.2: no such field; .*'clip_low'"):
        load_loss("ppo_clip", clip=0.2)
    with pytest.raises(ValueError, match=r"loss 'ppo_clip': clip_low: 'much': .*valid number"):
        load_loss("ppo_clip", clip_low="much")
