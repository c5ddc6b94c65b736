"""Every loss, level and KL that TRL has too, against `GRPOTrainer._compute_loss`: loss and gradient in
fp64."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support import require
from torch import Tensor
from trainer_builders import VOCAB, gradients, make_learner, make_row, on_policy
from trl_peer import PROMPT, trl_loss

from palaestra.trainer.batches.rows import Row, make_batch
from palaestra.trainer.learner import Learner
from palaestra.trainer.objective.correction import Correction
from palaestra.trainer.objective.kl import KlPenalty

pytestmark = pytest.mark.usefixtures("trl")
EXACT = 1e-12
MAX_TOKENS = 40
CLIP = {"clip_low": 0.1, "clip_high": 0.15}
EPSILON = {"epsilon": 0.1, "epsilon_high": 0.15}
SAPO = {"tau_positive": 1.0, "tau_negative": 1.25}
TEMPERATURES = {"sapo_temperature_pos": 1.0, "sapo_temperature_neg": 1.25}
"""Exact in fp32, in which TRL holds them; the paper's 1.05 is not."""


@pytest.fixture(scope="module")
def trl() -> None:
    require("trl")


@pytest.fixture(scope="module")
def case() -> tuple[Learner, list[Row]]:
    """Turns and what tools say between them; engine, old and reference policy each a bit elsewhere."""
    learner = make_learner()
    draw = torch.Generator().manual_seed(3)

    def random(*shape: int) -> list[Any]:
        untyped: Any = torch.rand(*shape, generator=draw, dtype=torch.float64)
        found: list[Any] = untyped.tolist()
        return found

    rows: list[Row] = []
    for sample in range(6):
        length = PROMPT + 6 + 2 * sample
        ids = [int(VOCAB * each) for each in random(length)]
        mask = [at >= PROMPT and each < 0.7 for at, each in enumerate(random(length))]
        mask[-1] = True
        advantage = (-1) ** sample * (0.5 + random(1)[0])
        row = make_row(ids, mask, sample=sample, advantage=advantage)
        (row,) = on_policy(learner, [row])
        now = row.tokens.logprobs
        shifts = [[0.4 * (each - 0.5) for each in random(length)] for _ in range(3)]
        engine, old, ref = (tuple(a + b for a, b in zip(now, shift, strict=True)) for shift in shifts)
        tokens = replace(row.tokens, logprobs=engine)
        rows.append(replace(row, tokens=tokens, old_logprobs=old, ref_logprobs=ref))
    return learner, rows


def ours(
    case: tuple[Learner, list[Row]], loss: str, aggregation: str, **options: Any
) -> tuple[float, Tensor, dict[str, float]]:
    learner, rows = case
    batch = make_batch(rows, aggregation, max_tokens=MAX_TOKENS if aggregation == "constant" else None)
    report = learner.forward_backward(batch, loss, **options)
    return report.loss, gradients(learner), dict(report.metrics)


def theirs(case: tuple[Learner, list[Row]], folder: Path, **settings: Any) -> tuple[float, Tensor]:
    learner, rows = case
    loss = trl_loss(learner.model, rows, folder, max_completion_length=MAX_TOKENS, **settings)
    untyped: Any = loss
    untyped.backward()
    return float(loss.detach()), gradients(learner)


def assert_same(left: tuple[float, Tensor], right: tuple[float, Tensor]) -> None:
    assert abs(left[0]) > 1e-3 and float(left[1].abs().max()) > 1e-3
    assert abs(left[0] - right[0]) <= EXACT
    assert float((left[1] - right[1]).abs().max()) <= EXACT


LOSSES = [
    ("ppo_clip", "episode", CLIP, {"loss_type": "grpo", **EPSILON}),
    ("ppo_clip", "token", CLIP, {"loss_type": "bnpo", **EPSILON}),
    ("ppo_clip", "episode", CLIP | {"dual_clip": 1.2}, {"loss_type": "grpo", "delta": 1.2, **EPSILON}),
    ("dapo", "token", CLIP, {"loss_type": "dapo", **EPSILON}),
    ("dr_grpo", "constant", CLIP, {"loss_type": "dr_grpo", **EPSILON}),
    ("cispo", "token", {"max_ratio": 1.1}, {"loss_type": "cispo", "epsilon_high": 1.1}),
    ("sapo", "episode", SAPO, {"loss_type": "sapo", **TEMPERATURES}),
]


@pytest.mark.parametrize("beta", [0.0, 0.3])
@pytest.mark.parametrize(("level", "trl_level"), [("token", "token"), ("episode", "sequence")])
@pytest.mark.parametrize(("loss", "aggregation", "options", "settings"), LOSSES)
def test_loss_and_gradient_are_those_of_trl(
    case: tuple[Learner, list[Row]],
    tmp_path: Path,
    loss: str,
    aggregation: str,
    options: dict[str, Any],
    settings: dict[str, Any],
    level: Any,
    trl_level: str,
    beta: float,
) -> None:
    kl = KlPenalty(coefficient=beta, level=level) if beta else None
    loss_, gradient, metrics = ours(case, loss, aggregation, correction=None, kl=kl, level=level, **options)
    peer = theirs(case, tmp_path, importance_sampling_level=trl_level, beta=beta, **settings)
    assert_same((loss_, gradient), peer)
    if level == "token" and "clip_fraction" in metrics:
        assert 0.05 < metrics["clip_fraction"] < 0.9, "the clip has to matter"


def test_gspo_is_trls_sequence_level_with_the_papers_clip(
    case: tuple[Learner, list[Row]], tmp_path: Path
) -> None:
    loss, gradient, metrics = ours(case, "gspo", "episode", correction=None)
    settings: dict[str, Any] = {"loss_type": "grpo", "epsilon": 3e-4, "epsilon_high": 4e-4}
    assert_same((loss, gradient), theirs(case, tmp_path, importance_sampling_level="sequence", **settings))
    assert 0 < metrics["clip_fraction"] < 1


@pytest.mark.parametrize("level", ["token", "episode"])
@pytest.mark.parametrize("kind", ["truncate", "mask"])
@pytest.mark.parametrize("loss", ["ppo_clip", "cispo", "sapo"])
def test_correction_is_trls_importance_ratio(
    case: tuple[Learner, list[Row]], tmp_path: Path, loss: str, kind: Any, level: Any
) -> None:
    """Without a KL, which TRL leaves uncorrected."""
    high = 1.05

    def correct(gaps: Tensor, mask: Tensor) -> Tensor:
        ratio = (gaps if level == "token" else gaps.sum(1, keepdim=True)).exp()
        return ratio.clamp(max=high) if kind == "truncate" else ratio.masked_fill(ratio > high, 0.0)

    options, settings = {
        "cispo": ({"max_ratio": 1.1}, {"epsilon_high": 1.1}),
        "sapo": (SAPO, TEMPERATURES),
    }.get(loss, (CLIP, EPSILON))
    aggregation = "episode" if loss == "sapo" else "token"
    correction = Correction(level=level, kind=kind, high=high)
    loss_, gradient, _ = ours(case, loss, aggregation, correction=correction, **options)
    loss_type = "bnpo" if loss == "ppo_clip" else loss
    assert_same((loss_, gradient), theirs(case, tmp_path, correct=correct, loss_type=loss_type, **settings))


def test_the_entropy_bonus_is_trls(case: tuple[Learner, list[Row]], tmp_path: Path) -> None:
    loss, gradient, _ = ours(case, "dapo", "token", correction=None, entropy_bonus=0.1, **CLIP)
    peer = theirs(case, tmp_path, loss_type="dapo", entropy_coef=0.1, **EPSILON)
    assert_same((loss, gradient), peer)


def test_the_comparison_can_fail(case: tuple[Learner, list[Row]], tmp_path: Path) -> None:
    """Another clip, another average, another level and a KL without its ratio are all seen."""
    plain: dict[str, Any] = {"loss_type": "bnpo", **EPSILON}
    with_kl = plain | {"beta": 0.3}
    kl = KlPenalty(coefficient=0.3)
    for aggregation, options, settings in (
        ("token", {"clip_low": 0.2}, plain),
        ("episode", CLIP, plain),
        ("token", CLIP | {"level": "turn"}, plain),
        ("token", CLIP | {"kl": kl}, with_kl | {"use_bias_correction_kl": False}),
    ):
        found = ours(case, "ppo_clip", aggregation, correction=None, **options)
        peer = theirs(case, tmp_path, **settings)
        assert not math.isclose(found[0], peer[0], abs_tol=1e-6)
        assert float((found[1] - peer[1]).abs().max()) > 1e-6


def test_k2_has_another_value_than_trls_k3_and_the_same_gradient(
    case: tuple[Learner, list[Row]], tmp_path: Path
) -> None:
    kl = KlPenalty(coefficient=0.3, kind="k2")
    loss, gradient, _ = ours(case, "ppo_clip", "token", correction=None, kl=kl, **CLIP)
    peer = theirs(case, tmp_path, loss_type="bnpo", beta=0.3, **EPSILON)
    assert abs(loss - peer[0]) > 1e-6
    assert float((gradient - peer[1]).abs().max()) <= EXACT
