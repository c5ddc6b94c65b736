"""The parts of a run, made from its recipe."""

import inspect
import os
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from ..agents.collector import Collector
from ..agents.engine import Engine, PolicyVersion, Sampling
from ..agents.grading.stage import Grading
from ..agents.ledger import Ledger
from ..agents.policy import EnginePolicy
from ..agents.renderer import Renderer
from ..agents.rollout import Rollout
from ..agents.trajectory import Trajectory
from ..envs import Env, Policy, Task, TaskSet, load_env
from ..envs.errors import no_exit, where
from .config import LearnerConfig, LoraConfig
from .progress import Progress, waiting_for_episodes
from .recipe import LoraSection, OptimizerSection, Recipe
from .recipe_file import RecipeError
from .schedule import OptimizerConfig


class Arena(NamedTuple):
    """The environment of a run and its tasks."""

    env: type[Env[Any]]
    train: TaskSet
    held_out: TaskSet


def load_arena(recipe: Recipe) -> Arena:
    """The environment and the split of its tasks. Raises `RecipeError` and `UnknownEnv`."""
    env = load_env(recipe.env.id)
    tasks = make_tasks("env.tasks", env, recipe.env.tasks)
    try:
        train, held_out = tasks.split(recipe.env.held_out, seed=recipe.seed)
    except ValueError as error:
        raise RecipeError(f"env.held_out: {error}") from error
    return Arena(env, train, held_out)


def call(field: str, function: Callable[..., object], arguments: Mapping[str, Any]) -> object:
    """A user's function with arguments from `field`. Raises `RecipeError`."""
    signature = inspect.signature(function)
    try:
        signature.bind(**arguments)
    except TypeError as error:
        known = ", ".join(signature.parameters) or "nothing"
        raise RecipeError(f"{field}: {error}; {function.__qualname__} takes: {known}") from error
    try:
        with no_exit():
            return function(**arguments)
    except ModuleNotFoundError:
        raise  # `palaestra` names the extra that brings it
    except (ValueError, OSError, NotImplementedError) as error:
        raise RecipeError(f"{field}: {error}") from error
    except Exception as error:  # code that is not ours: where it broke is what its author looks for
        raise RecipeError(f"{field}: {type(error).__name__}: {error}, {where(error)}") from error


def make_tasks(field: str, env: type[Env[Any]], options: Mapping[str, Any]) -> TaskSet:
    """All tasks of an environment, one at least. Raises `RecipeError`, which names `field`."""
    tasks = call(field, env.tasks, options)
    if not isinstance(tasks, TaskSet):
        kind = type(tasks).__name__
        raise RecipeError(f"{field}: {env.__name__}.tasks returned {kind}; let it return TaskSet(tasks)")
    if not tasks:
        raise RecipeError(f"{field}: {env.__name__}.tasks made no task; ask for some")
    return tasks


def load_renderer(recipe: Recipe, model: Path) -> Renderer:
    """The chat format of a model folder. Raises `RecipeError` where the folder has none."""
    section = recipe.model
    try:
        return Renderer.from_pretrained(
            model, format=section.tool_format, history=section.history, describe_tools=section.describe_tools
        )
    except ValueError as error:
        raise RecipeError(f"model.path: {error}") from error


def make_rollout(
    recipe: Recipe, arena: Arena, engine: Engine, renderer: Renderer, temperature: float
) -> Rollout:
    """How this run plays an episode."""
    sampling = Sampling(temperature=temperature, max_tokens=recipe.sampling.max_tokens)
    limits = arena.env.budget.merged(recipe.env.budget)

    def make_policy(task: Task, version: PolicyVersion, seed: int) -> EnginePolicy:
        return EnginePolicy(
            engine,
            renderer,
            sampling,
            version=version,
            seed=seed,
            max_context=limits.max_context,
            max_tokens=limits.max_tokens,
        )

    return Rollout(
        make_env=lambda: arena.env(**recipe.env.options),
        make_policy=make_policy,
        run_seed=recipe.seed,
        budget=recipe.env.budget,
        grader_timeout_s=recipe.env.grader_timeout_s,
    )


def make_plain_rollout(recipe: Recipe, arena: Arena, make_policy: Callable[[Task], Policy]) -> Rollout:
    """How a policy plays that keeps no tokens: an oracle, or a chat endpoint."""
    return Rollout(
        make_env=lambda: arena.env(**recipe.env.options),
        make_policy=lambda task, version, seed: make_policy(task),
        run_seed=recipe.seed,
        budget=recipe.env.budget,
        grader_timeout_s=recipe.env.grader_timeout_s,
    )


def make_collector(
    recipe: Recipe,
    rollout: Rollout,
    ledger: Ledger,
    progress: Progress,
    on_episode: Callable[[Trajectory], None] | None = None,
    *,
    grading: Grading | None,
) -> Collector:
    """How this run plays many episodes. `on_episode`: default is to tell `progress`."""

    def on_stuck(seconds: float) -> None:
        inside = Counter(rollout.whereabouts.values())
        if grading is not None and grading.num_outstanding:
            inside["detached grading"] = grading.num_outstanding
        places = ", ".join(f"{n} in {name}" for name, n in inside.items())
        progress.note(f"no episode has ended for {seconds:.0f} s; in flight: {places or 'none'}")

    return Collector(
        rollout if grading is None else rollout.play,
        ledger,
        grading=grading,
        max_in_flight=recipe.engine.max_in_flight,
        max_attempts=recipe.grpo.max_attempts,
        retry_s=recipe.grpo.retry_s,
        on_episode=on_episode or progress.episode,
        on_pause=lambda pausing: progress.waiting(waiting_for_episodes(pausing)),
        on_stuck=on_stuck,
        stuck_after_s=recipe.engine.stuck_after_s,
    )


@asynccontextmanager
async def open_engine(recipe: Recipe, model: Path, progress: Progress) -> AsyncGenerator[Engine, None]:
    """The recipe's engine, serving the model folder as version 0."""
    section = recipe.engine
    if section.kind == "local":
        async with open_local_engine(recipe, model) as local:
            yield local
        return
    if section.url is not None:
        async with _open_vllm_client(recipe, section.url, str(model)) as client:
            yield client
        return
    from ..agents.engines.vllm_server import VllmServer

    assert recipe.lora is not None, "load_recipe checked it"
    log = recipe.folder / "vllm.log"
    server = VllmServer(
        model,
        log=log,
        port=section.port,
        dtype=recipe.model.dtype,
        max_lora_rank=recipe.lora.rank,
        max_context=section.max_context,
        args=section.args,
        progress=lambda seconds, line: progress.waiting(f"vLLM, {seconds:.0f} s: {line}"),
    )
    progress.note(f"starting vLLM; its log is {log}")
    async with server, _open_vllm_client(recipe, server.url, server.model) as client:
        yield client


@asynccontextmanager
async def _open_vllm_client(recipe: Recipe, url: str, model: str) -> AsyncGenerator[Engine, None]:
    from ..agents.engines.vllm import VllmEngine

    section = recipe.engine
    engine = VllmEngine(url, model=model, api_key_env=section.api_key_env, max_context=section.max_context)
    try:
        await engine.check()
        yield engine
    finally:
        await engine.close()


@asynccontextmanager
async def open_local_engine(recipe: Recipe, model: Path) -> AsyncGenerator[Engine, None]:
    """An engine in this process."""
    from ..agents.engines.local import LocalEngine

    section = recipe.engine
    try:
        engine = LocalEngine(
            model,
            slots=section.slots,
            max_context=section.max_context,
            deterministic=recipe.deterministic,
            threads=recipe.threads or os.cpu_count(),
        )
    except (ValueError, OSError) as error:  # of transformers too: a folder whose files are not a model
        raise RecipeError(f"engine: cannot serve {model}: {error}") from error
    try:
        yield engine
    finally:
        await engine.close()


def learner_config(
    recipe: Recipe, optimizer: OptimizerSection, num_updates: int, lora: LoraSection | None = None
) -> LearnerConfig:
    """The learner's settings; a falling schedule ends with the last update."""
    targets = None if lora is None else lora.targets
    return LearnerConfig(
        optimizer=OptimizerConfig(total_steps=num_updates, **optimizer.model_dump()),
        lora=None
        if lora is None
        else LoraConfig(
            rank=lora.rank,
            alpha=lora.alpha,
            targets=tuple(targets) if isinstance(targets, list) else "all-linear",
        ),
        dtype=recipe.model.dtype,
        temperature=recipe.sampling.temperature,
        micro_batch_tokens=recipe.grpo.micro_batch_tokens,
        seed=recipe.seed,
    )
