"""What the trainer writes is what vLLM serves: the model made on the spot, and its adapter."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from support import require, run_async, vllm_python

from palaestra.agents.canary import canary
from palaestra.agents.engine import PolicyVersion, WeightUpdate
from palaestra.agents.engines.vllm import VllmEngine
from palaestra.agents.engines.vllm_server import VllmServer
from palaestra.agents.renderer import Renderer
from palaestra.agents.trajectory import EpisodeKey
from palaestra.envs import UserMessage
from palaestra.trainer.config import LearnerConfig, LoraConfig
from palaestra.trainer.learner import Learner
from palaestra.trainer.model import load_model
from palaestra.trainer.recipe import TinyModel
from palaestra.trainer.rows import make_batch
from palaestra.trainer.schedule import OptimizerConfig
from palaestra.trainer.tiny import make_tiny_model
from palaestra.trainer.warm_start import demonstration_row

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

KEY = EpisodeKey(epoch=0, task_id="t", sample=0)
TEMPERATURE = 0.7


def test_model_and_adapter_are_served_with_the_learners_own_logprobs(tmp_path: Path) -> None:
    require("vllm")
    texts = [f"Calculate {a} - {b}. Answer: {a - b}" for a in range(30) for b in range(9)]
    make_tiny_model(TinyModel(), tmp_path / "model", texts)
    run_async(compare(tmp_path))


async def compare(folder: Path) -> None:
    renderer = Renderer.from_pretrained(folder / "model")
    prompts = [renderer.opening((UserMessage(text),), ()) for text in ("Calculate 1 - 2.", "hi")]
    optimizer = OptimizerConfig(lr=1e-2)
    config = LearnerConfig(lora=LoraConfig(rank=8), temperature=TEMPERATURE, optimizer=optimizer)
    learner = Learner(load_model(folder / "model"), config)

    def logprobs_of(prompt: Sequence[int], answer: Sequence[int]) -> list[float]:
        mask = [False] * len(prompt) + [True] * len(answer)
        (found,) = learner.logprobs([demonstration_row(KEY, [*prompt, *answer], mask)])
        return list(found[len(prompt) :])

    log = folder / "vllm.log"
    async with VllmServer(folder / "model", log=log, python=vllm_python(), max_lora_rank=8) as server:
        engine = VllmEngine(server.url, model=server.model)
        try:
            await engine.check()
            await canary(engine, logprobs_of, PolicyVersion(0), prompts, 1e-4, temperature=TEMPERATURE)
            before = logprobs_of(prompts[0], (5, 6, 7))
            train(learner)
            assert logprobs_of(prompts[0], (5, 6, 7)) != pytest.approx(before, abs=0.1)
            learner.export_adapter(folder / "adapter")
            await engine.publish(WeightUpdate(version=PolicyVersion(1), adapter=folder / "adapter"))
            await canary(engine, logprobs_of, PolicyVersion(1), prompts, 1e-4, temperature=TEMPERATURE)
        finally:
            await engine.close()


def train(learner: Learner) -> None:
    row = demonstration_row(KEY, [5, 6, 7, 8, 9, 10], [False, *[True] * 5])
    for _ in range(3):
        learner.forward_backward(make_batch([row]), "sft")
        learner.optim_step()
