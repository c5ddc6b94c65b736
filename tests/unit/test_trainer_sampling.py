"""The imperative calls: samples of the weights of this moment, and what `save` wrote."""

from dataclasses import replace
from math import nan
from pathlib import Path
from typing import Literal

import pytest
import torch
from support import run_async
from tiny_models import tiny_model
from trainer_builders import make_llama_learner, random_rows

from palaestra.agents.canary import USUAL_BOUNDS, DriftBound, PolicyDrift
from palaestra.agents.engine import PolicyVersion, Sampling
from palaestra.agents.engines.local import LocalEngine
from palaestra.agents.errors import EngineRefused
from palaestra.agents.trajectory import EpisodeKey
from palaestra.trainer.batches.rows import make_batch
from palaestra.trainer.config import LearnerConfig, LoraConfig
from palaestra.trainer.learner import Learner
from palaestra.trainer.objective.correction import Correction
from palaestra.trainer.objective.kl import KlPenalty
from palaestra.trainer.parts import open_local_engine
from palaestra.trainer.publisher import Publisher
from palaestra.trainer.recipe import Recipe
from palaestra.trainer.sampling import sample, sampled_row
from palaestra.trainer.schedule import OptimizerConfig
from palaestra.trainer.warm_start import demonstration_row
from palaestra.trainer.weights.model import load_model

PROMPTS = [[5, 6, 7], [8], [9, 10]]
LORA = LoraConfig(rank=4, alpha=8.0)


def learner_of(lora: LoraConfig | None) -> Learner:
    return make_llama_learner(LearnerConfig(lora=lora, temperature=0.7, optimizer=OptimizerConfig(lr=1e-2)))


def train(learner: Learner) -> None:
    for _ in range(2):
        learner.forward_backward(make_batch(random_rows(3)), "sft")
        learner.optim_step()


@pytest.mark.parametrize("lora", [None, LORA])
def test_answers_have_the_logprobs_of_the_learner_as_it_is_now(lora: LoraConfig | None) -> None:
    learner, sampling = learner_of(lora), Sampling(temperature=0.7, max_tokens=6)
    first = sample(learner, PROMPTS, sampling, seed=3)
    assert sample(learner, PROMPTS, sampling, seed=3) == first
    fewer = sample(learner, PROMPTS[1:], sampling, seed=4)
    assert [answer.ids for answer in fewer] == [answer.ids for answer in first[1:]]
    train(learner)
    answers = sample(learner, PROMPTS, sampling, seed=3)
    rows = [
        sampled_row(EpisodeKey(epoch=0, task_id="t", sample=number), prompt, answer, 0.5)
        for number, (prompt, answer) in enumerate(zip(PROMPTS, answers, strict=True))
    ]
    for row, found, prompt, answer, old in zip(
        rows, learner.logprobs(rows), PROMPTS, answers, first, strict=True
    ):
        assert found[len(prompt) :] == pytest.approx(answer.logprobs, abs=1e-5)
        assert answer.logprobs[0] != pytest.approx(old.logprobs[0], abs=1e-4)
        assert row.tokens.ids == (*prompt, *answer.ids) and row.episode_tokens == 6
        assert set(row.advantages[len(prompt) :]) == {0.5}
    learner.forward_backward(make_batch(rows))
    assert learner.optim_step().grad_norm > 0


@pytest.mark.parametrize(
    "sampling", [Sampling(temperature=0.5), Sampling(temperature=0.7, top_p=0.9), Sampling(temperature=0)]
)
def test_samples_that_the_learner_would_take_for_others_are_refused_unless_nobody_trains_on_them(
    sampling: Sampling,
) -> None:
    learner, short = learner_of(None), replace(sampling, max_tokens=2)
    with pytest.raises(ValueError, match=r"the learner trains on samples of temperature 0\.7 and top_p 1"):
        sample(learner, PROMPTS, short)
    assert len(sample(learner, PROMPTS, short, to_train=False)) == len(PROMPTS)


def test_demonstrations_train_under_a_supervised_loss_only() -> None:
    learner, key = learner_of(None), EpisodeKey(epoch=0, task_id="t", sample=0)
    batch = make_batch([demonstration_row(key, [1, 2, 3], [False, True, True])])
    with pytest.raises(ValueError, match=r"no engine has sampled.* train demonstrations with loss=.sft."):
        learner.forward_backward(batch, "ppo_clip")
    assert learner.forward_backward(batch, "sft").loss > 0
    with_reference = replace(batch, rows=tuple(replace(row, ref_logprobs=(-1.0,) * 3) for row in batch.rows))
    with pytest.raises(ValueError, match=r"no engine has sampled.* with loss=.sft., without a KL"):
        learner.forward_backward(with_reference, "sft", kl=KlPenalty(coefficient=0.1))
    with pytest.raises(ValueError, match="the loss is supervised: no policy sampled its tokens"):
        learner.forward_backward(batch, "sft", correction=Correction(level="episode"))


def start_with(seed: int, dtype: Literal["float32", "bfloat16"], bound: DriftBound | None = None) -> float:
    """The largest drift, of a learner in this precision and an engine in float32."""

    async def main() -> float:
        engine = LocalEngine(tiny_model("llama", num_hidden_layers=1, seed=seed), slots=4)
        learner = make_llama_learner(LearnerConfig(lora=LORA, dtype=dtype))
        publisher = Publisher(learner, engine, adapters=None, probes=PROMPTS, bound=bound)
        try:
            await publisher.expect_start()
        finally:
            await engine.close()
        assert publisher.metrics["engine_drift_mean"] <= publisher.metrics["engine_drift"]
        return publisher.metrics["engine_drift"]

    return run_async(main())


def test_a_model_that_is_stored_rounded_is_played_and_published_whole(tmp_path: Path) -> None:
    """A usual step is less than bfloat16 can tell apart."""
    tiny_model("llama", num_hidden_layers=1, dtype=torch.bfloat16).save_pretrained(tmp_path)
    learner = Learner(load_model(tmp_path), LearnerConfig(optimizer=OptimizerConfig(lr=1e-5)))
    fields = {"env": {"id": "arithmetic"}, "model": {"path": tmp_path}, "engine": {"slots": 4}}
    recipe = Recipe.model_validate({"name": "x", **fields})

    async def main() -> None:
        async with open_local_engine(recipe, tmp_path) as engine:
            publisher = Publisher(
                learner, engine, adapters=None, probes=PROMPTS, bound=DriftBound(largest=1e-5)
            )
            await publisher.expect_start()
            train(learner)
            await publisher.publish(PolicyVersion(1))
            with pytest.raises(EngineRefused, match="version 0 is not published; there are \\[1\\]"):
                await engine.generate([5], Sampling(max_tokens=1), policy=PolicyVersion(0), seed=0)

    run_async(main())


def test_an_engine_with_other_weights_is_seen_before_the_first_step() -> None:
    assert 0 <= start_with(0, "float32") < 1e-4
    for dtype in ("float32", "bfloat16"):
        with pytest.raises(PolicyDrift, match=r"before the first step: .* the engine has other weights"):
            start_with(1, dtype)


def test_half_precision_is_allowed_its_rounding_and_a_tight_bound_says_what_it_may_be() -> None:
    assert 1e-3 < start_with(0, "bfloat16") < 0.1
    words = (
        r"up to 0\.0\d+ nats, .* \(bound 0\.001\): .* another precision than model\.dtype; engine\.canary_"
    )
    with pytest.raises(PolicyDrift, match=words):
        start_with(0, "bfloat16", USUAL_BOUNDS["float32"])


def test_a_bound_is_kept_by_neither_nan_nor_a_mean_over_it() -> None:
    bound = DriftBound(largest=1.0, mean=0.1)
    assert bound.is_kept(largest=0.9, mean=0.1)
    assert not any(
        bound.is_kept(largest=x, mean=y) for x, y in ((0.9, 0.2), (1.1, 0.1), (nan, 0.0), (0.5, nan))
    )
    assert not DriftBound(largest=1.0).is_kept(largest=nan, mean=0.0)


@pytest.mark.parametrize("lora", [None, LORA])
def test_load_brings_back_what_save_wrote_with_a_fresh_optimizer(
    tmp_path: Path, lora: LoraConfig | None
) -> None:
    learner, rows = learner_of(lora), random_rows(3)
    train(learner)
    learner.save(tmp_path)
    expected = learner.logprobs(rows)
    train(learner)
    assert learner.logprobs(rows) != expected
    learner.load(tmp_path)
    assert learner.logprobs(rows) == expected
    assert learner.num_steps == 0 and not learner.optimizer.state
