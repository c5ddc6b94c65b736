"""The parts of a run, made from its recipe."""

from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from ..agents.collector import Collector
from ..agents.engine import Engine, PolicyVersion, Sampling
from ..agents.grading.stage import Grading
from ..agents.ledger import Ledger
from ..agents.policy import EnginePolicy
from ..agents.renderer import Renderer
from ..agents.rollout import Rollout
from ..agents.trajectory import Trajectory
from ..envs import Policy, Task
from .arena import Arena
from .config import LearnerConfig, LoraConfig
from .ranks.launch import default_threads
from .recipe import LoraSection, OptimizerSection, Recipe
from .recipe_file import RecipeError
from .redaction import redacted
from .reporting.progress import Progress, waiting_for_episodes
from .schedule import OptimizerConfig, model_width, usual_rate
from .trackers import RunInfo, Tracker, UnknownTracker, open_tracker
from .trackers.aliases import Aliased, other_numbers
from .trackers.several import Trackers


def load_renderer(recipe: Recipe, model: Path) -> Renderer:
    """The chat format of a model folder. Raises `RecipeError` where the folder has none."""
    section = recipe.model
    try:
        return Renderer.from_pretrained(
            model,
            format=section.tool_format,
            history=section.history,
            describe_tools=section.describe_tools,
            template_kwargs=section.template_options,
        )
    except ValueError as error:
        raise RecipeError(f"model.path: {error}") from error


def make_rollout(
    recipe: Recipe, arena: Arena, engine: Engine, renderer: Renderer, sampling: Sampling
) -> Rollout:
    """How this run plays an episode."""
    limits = arena.env.budget.merged(recipe.source.budget)

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
        make_env=arena.make_env,
        make_policy=make_policy,
        run_seed=recipe.seed,
        budget=recipe.source.budget,
        grader_timeout_s=recipe.source.grader_timeout_s,
    )


def make_plain_rollout(recipe: Recipe, arena: Arena, make_policy: Callable[[Task], Policy]) -> Rollout:
    """How a policy plays that keeps no tokens: an oracle, or a chat endpoint."""
    return Rollout(
        make_env=arena.make_env,
        make_policy=lambda task, version, seed: make_policy(task),
        run_seed=recipe.seed,
        budget=recipe.source.budget,
        grader_timeout_s=recipe.source.grader_timeout_s,
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

    log = recipe.folder / "vllm.log"
    server = VllmServer(
        model,
        log=log,
        port=section.port,
        dtype=recipe.model.dtype,
        max_lora_rank=None if recipe.lora is None else recipe.lora.rank,
        max_context=section.max_context,
        args=section.args,
        progress=lambda seconds, line: progress.waiting(f"vLLM, {seconds:.0f} s: {line}"),
    )
    progress.note(f"starting vLLM; its log is {log}")
    async with server, _open_vllm_client(recipe, server.url, server.model, server.obituary) as client:
        yield client


@asynccontextmanager
async def _open_vllm_client(
    recipe: Recipe, url: str, model: str, obituary: Callable[[], str | None] = lambda: None
) -> AsyncGenerator[Engine, None]:
    from ..agents.engines.vllm import VllmEngine

    section = recipe.engine
    engine = VllmEngine(
        url,
        model=model,
        api_key_env=section.api_key_env,
        max_context=section.max_context,
        obituary=obituary,
    )
    try:
        await engine.check()
        yield engine
    finally:
        await engine.close()


@asynccontextmanager
async def open_local_engine(recipe: Recipe, model: Path) -> AsyncGenerator[Engine, None]:
    """An engine in this process. It holds float32, as the learner does: what a step adds to a weight is often
    less than bfloat16 can tell apart."""
    from ..agents.engines.local import LocalEngine

    section = recipe.engine
    try:
        engine = LocalEngine(
            model,
            slots=section.slots,
            max_context=section.max_context,
            deterministic=recipe.deterministic,
            threads=recipe.threads or default_threads(),
            device=training_device(recipe),
            dtype="float32",
        )
    except (ValueError, OSError) as error:  # of transformers too: a folder whose files are not a model
        raise RecipeError(f"engine: cannot serve {model}: {error}") from error
    except RuntimeError as error:  # of torch
        cure = "lower engine.slots or engine.max_context" if "memory" in str(error) else "is it whole?"
        raise RecipeError(f"engine: cannot serve {model}: {error}; {cure}") from error
    try:
        yield engine
    finally:
        await engine.close()


def training_device(recipe: Recipe) -> str:
    """Where this process trains: "cpu", or "cuda:N". Raises `RecipeError` for a GPU that there is not."""
    from ._torch import own_device

    try:
        return own_device(recipe.model.device)
    except ValueError as error:
        raise RecipeError(f"model.device: {error}") from error


def learner_config(
    recipe: Recipe,
    optimizer: OptimizerSection,
    num_updates: int,
    *,
    model: Path,
    lora: LoraSection | None = None,
) -> LearnerConfig:
    """The learner's settings for a model folder; a falling schedule ends with the last update."""
    targets = None if lora is None else lora.targets
    settings = optimizer.model_dump()
    settings["lr"] = optimizer.lr or usual_rate(model_width(model), is_adapter=lora is not None)
    return LearnerConfig(
        optimizer=OptimizerConfig(total_steps=num_updates, **settings),
        lora=None
        if lora is None
        else LoraConfig(
            rank=lora.rank,
            alpha=lora.alpha,
            targets=tuple(targets) if isinstance(targets, list) else "all-linear",
            lr_ratio=lora.lr_ratio,
            base_dtype=lora.base_dtype,
        ),
        dtype=recipe.model.dtype,
        temperature=recipe.sampling.temperature,
        micro_batch_tokens=recipe.grpo.micro_batch_tokens,
        logit_chunk=recipe.grpo.logit_chunk,
        share_prefixes_from=recipe.grpo.share_prefixes_from,
        activation_checkpointing=recipe.grpo.activation_checkpointing,
        seed=recipe.seed,
    )


@asynccontextmanager
async def open_trackers(
    recipe: Recipe, progress: Progress, *, phase: str | None = None
) -> AsyncGenerator[Trackers, None]:
    """The recipe's trackers. `phase`: a stage of the run whose steps are counted by themselves; to a tracker
    it is a run beside it, in a folder of that name. Raises `RecipeError` for a tracker that there is not."""
    name, folder = recipe.name, recipe.folder
    if phase is not None:
        name, folder = f"{name}-{phase}", folder / phase
    run = RunInfo(name=name, folder=folder, recipe=redacted(recipe.model_dump(mode="json")))
    opened: dict[str, Tracker] = {}
    for section in recipe.trackers:
        try:
            tracker: Tracker = open_tracker(section.kind, run, section.options)
            if section.aliases:
                tracker = Aliased(tracker, section.aliases, other_numbers(recipe.grpo))
            opened[section.kind] = tracker
        except UnknownTracker as error:
            raise RecipeError(f"trackers: {error}") from error
    trackers = Trackers(opened, progress.note)
    try:
        yield trackers
    finally:
        await trackers.close()
