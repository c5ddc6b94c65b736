"""The learner on a GPU, and the benchmark that measures it there."""

import math

import pytest
from support import require
from tiny_models import tiny_model
from trainer_contestants import make_row
from trainer_gpu import BARS, measure_one, verdicts

from palaestra.trainer.batches.rows import make_batch
from palaestra.trainer.config import LearnerConfig
from palaestra.trainer.learner import Learner

SMALL = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 512,
}
BATCH = make_batch(
    [
        make_row(range(2, 2 + size), [False, *[True] * (size - 1)], advantage=advantage, sample=sample)
        for sample, (size, advantage) in enumerate([(9, 1.0), (30, -0.5), (17, 0.25)])
    ],
    is_fresh=True,
)


def first_steps(device: str) -> list[tuple[float, float]]:
    """(loss, gradient norm) of two optimizer steps, in several passes each."""
    learner = Learner(tiny_model().to(device), LearnerConfig(micro_batch_tokens=32))
    return [
        (learner.forward_backward(BATCH, correction=None).loss, learner.optim_step().grad_norm)
        for _ in range(2)
    ]


@pytest.mark.gpu
def test_steps_on_a_gpu_are_those_of_a_processor() -> None:
    require("gpu")
    for there, here in zip(first_steps("cuda"), first_steps("cpu"), strict=True):
        assert there == pytest.approx(here, rel=1e-3)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("is_adapter", [True, False])
def test_the_benchmark_measures_a_small_model(device: str, is_adapter: bool) -> None:
    if device == "cuda":
        require("gpu")
    found = measure_one(SMALL, is_adapter=is_adapter, device=device, pack=256, row=64)
    assert all(math.isfinite(value) and value > 0 for value in found.values()), found
    assert {"tokens_per_s", "flops_per_s"} <= set(found)


def test_a_bar_is_met_missed_or_not_measured() -> None:
    four, small = "Qwen3-4B LoRA r16", "Qwen3-0.6B LoRA r16"
    figures = {four: {"tokens_per_s": 6200.0, "mfu": 0.2}}
    found = verdicts("NVIDIA H100 80GB HBM3", figures)
    assert [found[f"{four}: tokens_per_s"], found[f"{four}: mfu"]] == ["pass", "FAIL"]
    assert found[f"{small}: tokens_per_s"] == "not measured"
    assert set(verdicts("NVIDIA A100-SXM4-80GB", figures).values()) == {"not measured"}
    assert set(found) == set(BARS)
