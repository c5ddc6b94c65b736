"""What the trainer writes is what vLLM serves: the model made on the spot, and its adapter."""

import json
from functools import partial
from pathlib import Path
from typing import Literal

import aiohttp
import pytest
from support import require, run_async, vllm_python

from palaestra.agents.canary import USUAL_BOUNDS, CanaryReport, DriftBound, PolicyDrift, canary
from palaestra.agents.engine import PolicyVersion, Sampling, WeightUpdate
from palaestra.agents.engines.vllm import VllmEngine
from palaestra.agents.engines.vllm_server import VllmServer
from palaestra.agents.errors import EngineRefused
from palaestra.agents.renderer import Renderer
from palaestra.agents.trajectory import EpisodeKey
from palaestra.envs import UserMessage
from palaestra.trainer._torch import read_tensors, write_tensors
from palaestra.trainer.batches.rows import make_batch
from palaestra.trainer.config import LearnerConfig, LoraConfig
from palaestra.trainer.learner import Learner
from palaestra.trainer.publisher import Publisher, answer_logprobs
from palaestra.trainer.recipe import TinyModel
from palaestra.trainer.schedule import OptimizerConfig
from palaestra.trainer.warm_start import demonstration_row
from palaestra.trainer.weights.model import load_model
from palaestra.trainer.weights.tiny import make_tiny_model

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

KEY = EpisodeKey(epoch=0, task_id="t", sample=0)
TEMPERATURE = 0.7
EXACT = DriftBound(largest=1e-4)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    require("vllm")
    texts = [f"Calculate {a} - {b}. Answer: {a - b}" for a in range(30) for b in range(9)]
    make_tiny_model(TinyModel(), tmp_path / "model", texts)
    return tmp_path / "model"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_model_and_adapter_are_served_with_the_learners_own_logprobs(
    tmp_path: Path, model: Path, dtype: Literal["float32", "bfloat16"]
) -> None:
    run_async(compare(model.parent, dtype))


def tie(model: Path) -> None:
    """Make the embeddings of a model folder its head, too."""
    config = json.loads((model / "config.json").read_text()) | {"tie_word_embeddings": True}
    (model / "config.json").write_text(json.dumps(config))
    weights = read_tensors(model / "model.safetensors")
    weights.pop("lm_head.weight")
    write_tensors(weights, model / "model.safetensors")


def test_whole_models_replace_each_other_and_their_tied_head_is_theirs(tmp_path: Path, model: Path) -> None:
    tie(model)
    run_async(replace_whole(model))


async def replace_whole(model: Path) -> None:
    renderer = Renderer.from_pretrained(model)
    prompts = [renderer.opening((UserMessage(text),), ()) for text in ("Calculate 1 - 2.", "hi")]
    lora = LearnerConfig(lora=LoraConfig(rank=4), optimizer=OptimizerConfig(lr=1e-2))
    first = Learner(load_model(model), lora)

    async def check(learner: Learner, version: int) -> None:
        await canary(engine, partial(answer_logprobs, learner), PolicyVersion(version), prompts, EXACT)

    log = model.parent / "vllm.log"
    async with VllmServer(model, log=log, python=vllm_python(), max_lora_rank=None) as server:
        engine = VllmEngine(server.url, model=server.model)
        try:
            await engine.check()
            await check(first, 0)
            train(first)
            first.export_merged(model.parent / "merged")  # what `palaestra export` writes
            config = LearnerConfig(optimizer=OptimizerConfig(lr=1e-2))
            second = Learner(load_model(model.parent / "merged"), config)
            policies = model.parent / "policies"
            publisher = Publisher(second, engine, adapters=policies, probes=prompts, bound=EXACT)
            await publisher.publish(PolicyVersion(1))
            await check(first, 1)
            for version in (2, 3):
                train(second)
                await publisher.publish(PolicyVersion(version))
            assert [path.name for path in (model.parent / "policies").iterdir()] == ["policy-000003"]
            with pytest.raises(EngineRefused, match="version 0 is gone: the server holds version 3 alone"):
                await engine.generate(prompts[0], Sampling(max_tokens=1), policy=PolicyVersion(0), seed=0)
            await by_vllm_alone(server.url, model)
            with pytest.raises(PolicyDrift):  # when this fails, vLLM has learned it and our loader may go
                await check(Learner(load_model(model)), 3)
        finally:
            await engine.close()


async def by_vllm_alone(url: str, model: Path) -> None:
    """vLLM's own reload of the model that it started with, without our part."""
    order = {"method": "reload_weights", "kwargs": {"weights_path": str(model)}}
    async with aiohttp.ClientSession() as session:
        for path, body in (("collective_rpc", order), ("reset_prefix_cache", None)):
            async with session.post(f"{url}/{path}", json=body) as response:
                assert response.status == 200, await response.text()


async def compare(folder: Path, dtype: Literal["float32", "bfloat16"]) -> None:
    renderer = Renderer.from_pretrained(folder / "model")
    prompts = [renderer.opening((UserMessage(text),), ()) for text in ("Calculate 1 - 2.", "hi")]
    optimizer = OptimizerConfig(lr=1e-2)
    lora = LoraConfig(rank=8)
    config = LearnerConfig(lora=lora, dtype=dtype, temperature=TEMPERATURE, optimizer=optimizer)
    learner = Learner(load_model(folder / "model"), config)
    log, bound = folder / "vllm.log", EXACT if dtype == "float32" else USUAL_BOUNDS[dtype]

    async def check(learner: Learner, version: int) -> CanaryReport:
        told = partial(answer_logprobs, learner)
        return await canary(
            engine, told, PolicyVersion(version), prompts, bound, temperature=TEMPERATURE, max_tokens=32
        )

    async with VllmServer(
        folder / "model", log=log, python=vllm_python(), dtype=dtype, max_lora_rank=8
    ) as server:
        engine = VllmEngine(server.url, model=server.model)
        try:
            await engine.check()
            report = await check(learner, 0)
            assert (report.max_drift > USUAL_BOUNDS["float32"].largest) == (dtype == "bfloat16")
            before = answer_logprobs(learner, prompts[0], (5, 6, 7))
            train(learner)
            assert answer_logprobs(learner, prompts[0], (5, 6, 7)) != pytest.approx(before, abs=0.1)
            learner.export_adapter(folder / "adapter")
            await engine.publish(WeightUpdate(version=PolicyVersion(1), adapter=folder / "adapter"))
            await check(learner, 1)
            with pytest.raises(
                PolicyDrift, match="the engine has other weights, or computes in another prec"
            ):
                await check(learner, 0)
        finally:
            await engine.close()


def train(learner: Learner) -> None:
    row = demonstration_row(KEY, [5, 6, 7, 8, 9, 10], [False, *[True] * 5])
    for _ in range(3):
        learner.forward_backward(make_batch([row]), "sft")
        learner.optim_step()
