"""Does a recipe's engine do the same arithmetic as the learner? Asked of it before a run depends on it."""

import asyncio
import math
import tempfile
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..agents.canary import CanaryReport, DriftBound, canary
from ..agents.engine import Engine, Sampling
from ..agents.renderer import Renderer
from ..agents.trajectory import EpisodeKey
from ..envs import Scored
from ..envs.worker_env import adopt
from .arena import Arena
from .beginning import START
from .parts import learner_config, load_renderer, make_plain_rollout, open_engine
from .preflight import check_engine, check_oracle, preflight
from .publisher import answer_logprobs, drift_bound
from .ranks.leader import open_learner
from .recipe import Recipe, TinyModel
from .reporting.progress import Progress
from .warm_start import oracle_texts
from .weights.tiny import make_tiny_model

NUM_PROMPTS = 4
NUM_TEXTS = 32
"""Demonstrations that the tokenizer of a tiny model is trained on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineReport:
    """What was found."""

    kind: str
    """"local" or "vllm"."""
    max_context: int
    """Tokens of prompt and answer together."""
    is_repeatable: bool
    """The same prompt and seed gave the same tokens, alone and in a batch."""
    drift: float
    """Largest difference of engine and learner log-probabilities, nats."""
    mean_drift: float
    """The mean one."""
    bound: DriftBound
    """The recipe's `engine.canary_bound`, or what is usual for its `model.dtype`."""

    @property
    def is_close(self) -> bool:
        """Would a run of the recipe take it for the same weights?"""
        return self.bound.is_kept(largest=self.drift, mean=self.mean_drift)


async def compare_engine(recipe: Recipe, model: Path | None, progress: Progress) -> EngineReport:
    """Start the recipe's engine on a model folder, None for the recipe's, and ask it a few prompts.

    Raises `RecipeError`, and `EngineError` where the engine does not start or answer.
    """
    async with aclosing(await preflight(recipe, trains=False)) as arena:
        await check_engine(recipe)
        with tempfile.TemporaryDirectory(prefix="palaestra-") as name:
            scratch = Path(name)
            recipe = recipe.model_copy(update={"runs_dir": scratch})  # the server's log
            folder = model or recipe.model.path or await _make_tiny(recipe, arena, scratch / "model")
            renderer = load_renderer(recipe, folder)
            numbers = range(min(NUM_PROMPTS, len(arena.held_out)))
            prompts = [await _opening(recipe, arena, renderer, number) for number in numbers]
            async with open_engine(recipe, folder, progress) as engine:
                progress.waiting("answers")
                found = await _compare(recipe, engine, folder, prompts)
                return EngineReport(
                    kind=recipe.engine.kind,
                    max_context=engine.max_context,
                    is_repeatable=await _is_repeatable(recipe, engine, renderer, prompts),
                    drift=found.max_drift,
                    mean_drift=found.mean_drift,
                    bound=drift_bound(recipe),
                )


async def _make_tiny(recipe: Recipe, arena: Arena, folder: Path) -> Path:
    """The model that a run of the recipe would start from, its tokenizer from fewer demonstrations."""
    check_oracle(arena, "model.tiny")
    rollout = make_plain_rollout(recipe, arena, arena.env.oracle)
    keys = [
        (EpisodeKey(split="demonstrations", epoch=0, task_id=task.id, sample=0), task)
        for task in arena.train[:NUM_TEXTS]
    ]
    played = await asyncio.gather(*(rollout(key, task, START) for key, task in keys))
    tiny = recipe.model.tiny or TinyModel()
    texts = oracle_texts(recipe, [each for each in played if isinstance(each.outcome, Scored)])
    await asyncio.to_thread(make_tiny_model, tiny, folder, texts, seed=recipe.seed)
    return folder


async def _opening(recipe: Recipe, arena: Arena, renderer: Renderer, number: int) -> tuple[int, ...]:
    """What the engine sees first of a held-out task."""
    env = adopt(arena.make_env())
    try:
        first = await env.reset(arena.held_out[number], seed=recipe.seed)
    finally:
        await env.close()
    return renderer.opening(first.messages, first.tools)


async def _is_repeatable(
    recipe: Recipe, engine: Engine, renderer: Renderer, prompts: Sequence[tuple[int, ...]]
) -> bool:
    sampling = Sampling(temperature=recipe.sampling.temperature, max_tokens=16, stop_ids=renderer.stop_ids)

    async def ask(prompt: tuple[int, ...]) -> tuple[int, ...]:
        return (await engine.generate(prompt, sampling, policy=START, seed=recipe.seed)).ids

    together = await asyncio.gather(*map(ask, prompts))
    return together == [await ask(prompt) for prompt in prompts]


async def _compare(
    recipe: Recipe, engine: Engine, folder: Path, prompts: Sequence[tuple[int, ...]]
) -> CanaryReport:
    config = learner_config(recipe, recipe.optimizer, 1, model=folder, lora=recipe.lora)
    learner = await asyncio.to_thread(open_learner, folder, config)
    return await canary(
        engine,
        partial(answer_logprobs, learner),
        START,
        prompts,
        DriftBound(largest=math.inf),
        temperature=recipe.sampling.temperature,
    )
