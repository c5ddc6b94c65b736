"""How far the policy is from the one that sampled, and that it is no way at all at the start."""

import math
from dataclasses import replace

import pytest
from trainer_builders import gradients, make_llama_learner, make_row, on_policy, random_rows

from palaestra.trainer.batches.rows import Row, make_batch
from palaestra.trainer.config import LearnerConfig, LoraConfig
from palaestra.trainer.losses import loss_names
from palaestra.trainer.objective.kl import KlPenalty
from palaestra.trainer.reporting.diagnostics import off_policy_metrics


def row_with(versions: list[int], turns: list[int]) -> Row:
    row = make_row([1] * (len(versions) + 1), [False, *[True] * len(versions)], logprobs=[-1.0] * 9)
    return replace(row, tokens=replace(row.tokens, versions=(-1, *versions)), turns=(-1, *turns))


def test_gaps_are_counted_by_lag_and_by_turn() -> None:
    rows = [row_with([7, 7, 5], [0, 0, 1]), row_with([7, 6], [0, 12])]
    rows = [replace(row, tokens=replace(row.tokens, logprobs=(0.0,) * len(row.tokens.ids))) for row in rows]
    found = off_policy_metrics(rows, [(0.0, 0.1, -0.3, 0.5), (0.0, 0.2, 0.4)], 7)
    assert found["staleness"] == pytest.approx(3 / 5) and found["staleness_max"] == 2.0
    by = {name.removeprefix("abs_log_ratio_"): value for name, value in found.items() if "ratio" in name}
    assert by == pytest.approx(
        {"lag_0": 0.2, "lag_1": 0.4, "lag_2": 0.5, "turn_0": 0.2, "turn_1": 0.5, "turn_8_on": 0.4}
    )


def test_the_effective_sample_size_falls_as_weights_part() -> None:
    row = make_row([1, 2, 3], [False, True, True])
    assert off_policy_metrics([row], [(0.0, 0.0, 0.0)], 0)["ess"] == 1.0
    assert off_policy_metrics([row], [(0.0, 900.0, 0.0)], 0)["ess"] == pytest.approx(0.5)
    w, v = math.exp(0.3), math.exp(-0.2)
    expected = (w + v) ** 2 / (2 * (w * w + v * v))
    assert off_policy_metrics([row], [(0.0, 0.3, -0.2)], 0)["ess"] == pytest.approx(expected)
    assert math.isnan(off_policy_metrics([row], [(0.0, math.inf, 0.0)], 0)["ess"])
    assert off_policy_metrics([], [], 0) == {}


@pytest.mark.parametrize("loss", sorted({*loss_names()} - {"sft"}))
def test_before_the_first_step_an_adapter_is_the_base_model_and_nothing_is_clipped(loss: str) -> None:
    """LoRA's B is 0: ratio 1, clip 0, KL 0, and the gradient is that of the loss without a penalty."""
    learner = make_llama_learner(LearnerConfig(lora=LoraConfig(rank=4, alpha=8.0)))
    learner.keep_reference()
    rows = on_policy(learner, random_rows(4))
    refs = learner.reference_logprobs(rows)
    rows = [replace(row, ref_logprobs=ref) for row, ref in zip(rows, refs, strict=True)]
    batch = make_batch(rows, is_fresh=True)
    report = learner.forward_backward(batch, loss, kl=KlPenalty(coefficient=0.5))
    with_penalty = gradients(learner)
    assert report.metrics["ratio"] == report.metrics["ratio_max"] == report.metrics["correction"] == 1.0
    assert report.metrics["kl_penalty"] == 0.0 and report.metrics.get("clip_fraction", 0.0) == 0.0
    learner.forward_backward(batch, loss)
    assert float((with_penalty - gradients(learner)).abs().max()) <= 1e-6 * float(with_penalty.abs().max())
