"""The learner: loss and gradient depend on what is trained, not on how it is laid out."""

import math
from collections.abc import Generator
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_models import FAMILIES, logprobs_of, tiny_model
from torch import Tensor
from trainer_builders import (
    found_by,
    gradients,
    make_learner,
    make_llama_learner,
    make_row,
    on_policy,
    random_rows,
)

from palaestra.trainer.batches.rows import make_batch
from palaestra.trainer.config import LearnerConfig, LoraConfig
from palaestra.trainer.errors import Diverged
from palaestra.trainer.learner import Learner
from palaestra.trainer.schedule import OptimizerConfig, learning_rate

# --- what must not matter, beside the order, the micro-batches and the forks of test_loss_layout.py ---


def test_chunks_of_the_head_do_not_matter() -> None:
    batch = make_batch(random_rows(8))
    small = make_learner(LearnerConfig(logit_chunk=3))
    assert found_by(make_learner(), batch).gap(found_by(small, batch)) <= 1e-12


@pytest.mark.parametrize("family", FAMILIES)
def test_logprobs_are_those_of_the_whole_model_alone_at_the_sampling_temperature(family: str) -> None:
    model = tiny_model(family, dtype=torch.float64)
    rows = random_rows(7)
    for temperature in (1.0, 0.6):
        learner = Learner(model, LearnerConfig(temperature=temperature))
        for row, found in zip(rows, learner.logprobs(rows), strict=True):
            ids = list(row.tokens.ids)
            alone = [0.0, *logprobs_of(model, ids[:1], ids[1:], temperature)]
            expected = [
                value if is_trained else 0.0 for value, is_trained in zip(alone, row.tokens.mask, strict=True)
            ]
            assert found == pytest.approx(expected, abs=1e-12)


def test_a_line_of_several_rows_is_exact_with_reset_positions_and_contaminated_under_a_full_mask() -> None:
    """Why rows share a line without a mask: a wrong one is silent."""
    model = tiny_model("llama", dtype=torch.float64)
    rows = [make_row(row.tokens.ids, row.tokens.mask) for row in random_rows(4)]
    ours = [value for found in Learner(model).logprobs(rows) for value in found]
    ids = torch.tensor([[token for row in rows for token in row.tokens.ids]])
    reset = torch.cat([torch.arange(len(row.tokens.ids)) for row in rows])[None]
    mask = torch.tensor([is_trained for row in rows for is_trained in row.tokens.mask])

    def packed(attention_mask: Tensor | None) -> Tensor:
        with torch.no_grad():
            logits = model(
                input_ids=ids, position_ids=reset, attention_mask=attention_mask, use_cache=False
            ).logits[0]
        logprobs = logits.log_softmax(-1)[:-1].gather(1, ids[0, 1:, None])[:, 0]
        return torch.cat([torch.zeros(1), logprobs]) * mask

    expected = torch.tensor(ours, dtype=torch.float64)
    assert float((packed(None) - expected).abs().max()) <= 1e-12
    assert float((packed(torch.ones_like(ids)) - expected).abs().max()) > 1e-2


def test_padding_is_known_by_length_so_that_any_id_may_be_sampled() -> None:
    short = make_row([0, 0, 0], [False, True, True])
    long = make_row([4, 0, 2, 0, 3, 0], [False, True, True, True, True, True], sample=1)
    learner = make_learner()
    assert learner.logprobs([short, long])[0] == pytest.approx(learner.logprobs([short])[0], abs=1e-14)


def test_the_report_sums_over_all_micro_batches() -> None:
    rows = random_rows(8)
    small = make_learner(LearnerConfig(micro_batch_tokens=1)).forward_backward(make_batch(rows))
    large = make_learner().forward_backward(make_batch(rows))
    assert small.metrics == pytest.approx(large.metrics)
    assert small.num_tokens == large.num_tokens == sum(sum(row.tokens.mask) for row in rows)
    for row, logprobs in zip(rows, large.logprobs, strict=True):
        assert [value != 0 for value in logprobs] == list(row.tokens.mask)
    assert 0 < large.metrics["entropy"] < math.log(97)


@pytest.fixture
def deterministic() -> Generator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("lora", [None, LoraConfig(rank=4, alpha=8.0)])
def test_the_same_inputs_give_the_same_bits(lora: LoraConfig | None) -> None:
    def weights() -> list[Tensor]:
        learner = make_llama_learner(LearnerConfig(lora=lora))
        rows = random_rows(8)
        for _ in range(3):
            learner.forward_backward(make_batch(rows))
            learner.optim_step()
        return [parameter.detach() for parameter in learner.parameters.values()]

    assert all(torch.equal(left, right) for left, right in zip(weights(), weights(), strict=True))


# --- stepping ---


def test_sft_steps_learn_a_row_by_heart() -> None:
    learner = make_llama_learner(LearnerConfig(optimizer=OptimizerConfig(lr=1e-2)))
    batch = make_batch([make_row([1, 2, 3, 4, 5], [False, True, True, True, True])])
    losses = list[float]()
    for _ in range(30):
        losses.append(learner.forward_backward(batch, "sft").loss)
        learner.optim_step()
    assert losses[0] > 2 and losses[-1] < 0.1


def test_a_positive_advantage_makes_the_sampled_tokens_likelier() -> None:
    learner = make_learner(LearnerConfig(optimizer=OptimizerConfig(lr=1e-3)))
    (row,) = on_policy(learner, [make_row([1, 2, 3], [False, True, True])])
    learner.forward_backward(make_batch([row]))
    learner.optim_step()
    assert sum(learner.logprobs([row])[0]) > sum(row.tokens.logprobs)


def test_the_gradient_norm_is_clipped_and_reported_as_it_was() -> None:
    learner = make_learner()
    learner.forward_backward(make_batch(random_rows(4)))
    norm = float(gradients(learner).square().sum().sqrt())
    learner.forward_backward(make_batch(random_rows(4)))
    assert learner.optim_step().grad_norm == pytest.approx(norm)


def test_a_gradient_that_is_not_finite_is_thrown_away() -> None:
    learner = make_learner()
    before = [parameter.detach().clone() for parameter in learner.parameters.values()]
    row = make_row([1, 2, 3], [False, True, True], logprobs=[0.0, math.nan, -1.0], advantage=-1.0)
    learner.forward_backward(make_batch([row]))
    report = learner.optim_step()
    assert report.is_skipped and not math.isfinite(report.grad_norm)
    assert learner.num_steps == 0
    assert all(torch.equal(a, b) for a, b in zip(before, learner.parameters.values(), strict=True))
    learner.forward_backward(make_batch(random_rows(2)))
    assert not learner.optim_step().is_skipped


@pytest.mark.parametrize("lr", [1e160, 1e307, math.inf])
def test_a_step_that_breaks_the_weights_is_an_error(lr: float) -> None:
    learner = make_learner(LearnerConfig(optimizer=OptimizerConfig(lr=lr)))
    learner.forward_backward(make_batch(random_rows(2)))
    with pytest.raises(Diverged, match=r"optimizer step 1 \(lr .* a lower lr"):
        learner.optim_step()


def test_a_step_without_a_gradient_is_refused() -> None:
    learner = make_learner()
    learner.forward_backward(make_batch([make_row([1, 2], [False, False])]))
    with pytest.raises(ValueError, match="forward_backward"):
        learner.optim_step()


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.5, 1.0, 1.0, 1.0]),
        ("linear", [0.5, 1.0, 0.55, 0.1]),
        ("cosine", [0.5, 1.0, 0.55, 0.1]),
    ],
)
def test_the_learning_rate_warms_up_and_then_falls_to_its_floor(schedule: Any, expected: list[float]) -> None:
    config = OptimizerConfig(lr=1.0, warmup_steps=2, schedule=schedule, total_steps=12)
    assert [learning_rate(config, step) for step in (0, 1, 7, 20)] == pytest.approx(expected)


def test_a_falling_schedule_without_an_end_is_refused() -> None:
    with pytest.raises(ValueError, match="needs total_steps over warmup_steps=5"):
        OptimizerConfig(schedule="cosine", warmup_steps=5, total_steps=5)


def test_greedy_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="greedy"):
        LearnerConfig(temperature=0.0)


def test_some_rows_with_old_logprobs_and_some_without_are_refused() -> None:
    learner = make_learner()
    rows = random_rows(3)
    rows[0] = replace(rows[0], old_logprobs=rows[0].tokens.logprobs)
    with pytest.raises(ValueError, match="all or none"):
        learner.forward_backward(make_batch(rows))
