"""What can be known to fail before a run has cost anything."""

import asyncio
import math
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from ..agents.canary import expect_processed_logprobs
from ..agents.errors import EngineError
from ..envs import Env, SandboxToolEnv
from ..envs.graders import AnyGrader, LambdaReward, NamedReward
from ..envs.graders._functions.reply import RewardFailed
from ..envs.play import put_away
from ..envs.reachable import refusal
from ..sandboxes import open_sandbox
from .advantages import load_advantage
from .arena import Arena, call, load_arena
from .losses import load_loss
from .objective.terms import traits
from .parts import training_device
from .prompts import check_prompts
from .recipe import GradingSection, GrpoSection, Recipe
from .recipe_file import RecipeError
from .trackers import find_tracker
from .weights.lineage import base_of, find_origin
from .weights.model_size import has_tied_head, layer_names, model_folder
from .weights.stored import expect_whole, read_settings, shapes_in


async def preflight(recipe: Recipe, *, trains: bool = True) -> Arena:
    """The recipe's environment and tasks, when everything that they need is there.

    `trains` False leaves out what only training needs. Raises `RecipeError`, `UnknownEnv` and
    `SandboxUnavailable`.
    """
    arena = load_arena(recipe)
    await _check_env_options(arena)
    await _check_reward(arena.env.grader)
    await _check_grading(recipe.grading)
    _check_success(recipe, arena.env.reward_range)
    if trains:
        if not arena.train:
            raise RecipeError(
                f"{recipe.source_field}.held_out: {len(arena.held_out)} is every distinct prompt, "
                "none is left to train on; ask for fewer, or make the task set larger"
            )
        check_advantage(recipe.grpo, arena.env.reward_range)
        check_loss(recipe.grpo)
        check_targets(recipe)
        check_place(recipe)
        if (folder := check_start(recipe) or recipe.model.path) is not None:
            check_prompts(recipe, arena, folder)
        if recipe.grpo.sft_coefficient:
            check_oracle(arena, "grpo.sft_coefficient")
        if recipe.warm_start is not None:
            check_oracle(arena, "warm_start")
        if recipe.model.tiny is not None:
            check_oracle(arena, "model.tiny")
        await check_engine(recipe, trains=True)
    if issubclass(arena.env, SandboxToolEnv):
        async with open_sandbox(arena.env.sandbox):
            pass
    return arena


def _check_success(recipe: Recipe, reward_range: tuple[float, float]) -> None:
    """Raise `RecipeError` for a threshold that every episode passes, or none."""
    threshold, (floor, maximum) = recipe.evaluation.success_threshold, reward_range
    if threshold is not None and not floor < threshold <= maximum:
        raise RecipeError(
            f"evaluation.success_threshold: {threshold:g} is where an episode passes, and the environment's "
            f"rewards are from {floor:g} to {maximum:g}; set it to a reward over the first and up to the "
            "second"
        )


async def _check_grading(section: GradingSection | None) -> None:
    """Raise `RecipeError` where nobody is at an address of the grading service."""
    for field in ("url", "endpoint_url") if section is not None else ():
        url: str | None = getattr(section, field)
        with _about(f"grading.{field}"):
            if url is not None and (why := await refusal(url)) is not None:
                raise ValueError(f"{why}; start the grader first, or mend the address")


async def _check_reward(grader: AnyGrader | None) -> None:
    """Whether the processes and sandboxes that functions run in can load them."""
    with _about("reward"):
        if isinstance(grader, LambdaReward):
            await grader.check()
        elif isinstance(grader, NamedReward) and grader.call is not None:
            await grader.call.check()


def check_oracle(arena: Arena, field: str) -> None:
    """Raise `RecipeError` where the environment has no oracle to play for `field`."""
    try:
        arena.env.oracle(arena.held_out[0])
    except NotImplementedError as error:
        raise RecipeError(
            f"{field}: needs somebody who can play, but {error}; "
            "or start from a trained model: set model.path, without warm_start"
        ) from error


def check_loss(section: GrpoSection) -> None:
    """Raise `RecipeError` for an unknown loss, for options that it does not have, and for one that would not
    read rewards."""
    with _loading("grpo.loss", section.loss):
        found = traits(load_loss(section.loss, **section.loss_options))
    if found.is_supervised:
        raise RecipeError(
            f"grpo.loss: {section.loss} makes every sampled token likelier, those of failures too, whatever "
            "its advantage; choose another, and let grpo.sft_coefficient add demonstrations to it"
        )
    aggregation = section.aggregation or found.aggregation
    if (aggregation == "constant") != (section.aggregation_tokens is not None):
        raise RecipeError(
            f"grpo.aggregation_tokens: {section.aggregation_tokens} with grpo.aggregation {aggregation}; "
            "constant, and only that, divides by the tokens that an episode may have. Set both, or neither"
        )


def check_targets(recipe: Recipe) -> None:
    """Raise `RecipeError` for an adapter on a layer that there is not, or on a head that is the embeddings
    too."""
    warm = None if recipe.warm_start is None else recipe.warm_start.lora
    for field, lora in (("lora", recipe.lora), ("warm_start.lora", warm)):
        if lora is None:
            continue
        if lora.targets != "all-linear":
            _check_layers(f"{field}.targets", lora.targets, layer_names(recipe))
        if "lm_head" not in lora.targets:
            continue
        folder = model_folder(recipe)
        if folder is not None and has_tied_head(folder):
            raise RecipeError(
                f"{field}.targets: lm_head is the embeddings too in {folder} (tie_word_embeddings), and an "
                "adapter on it cannot be merged into both; leave it out"
            )


def _check_layers(field: str, targets: Sequence[str], layers: frozenset[str] | None) -> None:
    for target in targets if layers is not None else ():
        is_tied = target == "lm_head"  # then it is in no file, which is refused for that
        if not is_tied and not any(f".{layer}".endswith(f".{target}") for layer in layers or ()):
            known = sorted({layer.rpartition(".")[2] for layer in layers or ()})
            raise RecipeError(f"{field}: the model has no layer {target!r}; it has: {', '.join(known)}")


def check_start(recipe: Recipe) -> Path | None:
    """Raise `RecipeError` for weights that no run can start from; the folder of the model that they are of,
    as far as it is there. A run that has its copy does not need them any more."""
    if recipe.model.start is None or (recipe.folder / "start").exists():
        return None
    origin = find_origin(recipe.model.start)
    if origin.kind != "checkpoint":  # whose files have hashes
        expect_whole(origin.folder)
    if origin.kind == "adapter":
        from .weights.adapters import expect_plain  # torch

        tensors = shapes_in(origin.folder / "adapter_model.safetensors")
        expect_plain(read_settings(origin.folder / "adapter_config.json"), tensors, origin.folder)
    return base_of(origin)


def check_place(recipe: Recipe) -> None:
    """Raise `RecipeError` for a GPU that there is not, and for a tracker that there is not."""
    if recipe.model.device == "cuda":
        training_device(recipe)
    for tracker in recipe.trackers:
        with _about("trackers"):
            find_tracker(tracker.kind, tracker.options)


def check_advantage(section: GrpoSection, reward_range: tuple[float, float]) -> None:
    """Raise `RecipeError` for an unknown advantage, options that it does not have, or rewards or groups that
    it cannot work with."""
    with _loading("grpo.advantage", section.advantage):
        advantage = load_advantage(section.advantage, **section.advantage_options)
    smallest: int = getattr(advantage, "min_size", 2)
    if section.group_size < smallest:
        raise RecipeError(
            f"grpo.group_size: {section.group_size} is less than the {smallest} that "
            f"{section.advantage} needs"
        )
    needed: float = getattr(advantage, "min_reward", -math.inf)
    floor, _ = reward_range
    shaped = "" if section.overlong is None else " with grpo.overlong"
    lowest = floor - (0.0 if section.overlong is None else section.overlong.weight)
    if lowest < needed:
        raise RecipeError(
            f"grpo.advantage: {section.advantage} needs rewards of {needed:g} or more, and the environment's "
            f"go down to {lowest:g}{shaped}; choose another"
        )
    if getattr(advantage, "needs_all_groups", False) and section.zero_variance == "drop":
        raise RecipeError(
            f"grpo.zero_variance: drop leaves out groups that teach nothing, and {section.advantage} with "
            f"grpo.advantage_options {section.advantage_options} counts on them (as gpg's rescale does, "
            "which makes up for them); set grpo.zero_variance to keep, or change the options"
        )
    _check_thresholds(section, getattr(advantage, "thresholds", ()), reward_range)


def _check_thresholds(
    section: GrpoSection, thresholds: Sequence[float | None], reward_range: tuple[float, float]
) -> None:
    """Raise `RecipeError` where rewards do not tell who passes."""
    floor, maximum = reward_range
    if thresholds and section.overlong is not None:
        raise RecipeError(
            f"grpo.overlong: {section.advantage} tells by the reward who passes, and what length takes from "
            "that would make a long episode that passes one that fails; leave it out, or choose another "
            "grpo.advantage"
        )
    for threshold in thresholds:
        passes = 1.0 if threshold is None else threshold
        if (threshold is None and maximum != 1.0) or not floor < passes <= maximum:
            raise RecipeError(
                f"grpo.advantage_options.threshold: {passes:g} is where an "
                f"episode passes, and the environment's rewards are from {floor:g} to {maximum:g}; set it "
                "to a reward over the first and up to the second"
            )


@contextmanager
def _loading(field: str, name: str) -> Generator[None, None, None]:
    """A class is looked up and made inside."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise RecipeError(f"{field}: {error}") from error
    except (ImportError, AttributeError) as error:
        if ":" not in name:
            raise
        raise RecipeError(
            f"{field}: {name!r} cannot be loaded: {error}; is its folder on PYTHONPATH?"
        ) from error


async def _check_env_options(arena: Arena) -> None:
    """An environment is made for each episode; the first one is made here."""
    await put_away(cast(Env[Any], call("env.options, env.partners", arena.env, arena.options)))


async def check_engine(recipe: Recipe, *, trains: bool = False) -> None:
    """Raise `RecipeError` where our own server could not start, or another one does not serve the model, or
    reports log-probabilities that cannot be trained on."""
    section = recipe.engine
    if section.kind == "local":
        return
    from ..agents.engines.vllm import VllmEngine
    from ..agents.engines.vllm_server import check_vllm_python, find_vllm_python, free_port, served_rank

    with _about("engine"):
        url = section.url or "http://127.0.0.1"
        engine = VllmEngine(url, model=str(recipe.model.path), api_key_env=section.api_key_env)
    if section.url is None:
        with _about("engine.port"):
            free_port(section.port)
        if recipe.lora is not None:
            with _about("lora.rank"):
                served_rank(recipe.lora.rank)
        with _about("engine.kind: vllm"):
            await asyncio.to_thread(check_vllm_python, find_vllm_python())
        return
    with _about("engine.url"):
        try:
            await engine.check()
            if trains and recipe.sampling.temperature != 1:
                await expect_processed_logprobs(engine)
        finally:
            await engine.close()


@contextmanager
def _about(field: str) -> Generator[None, None, None]:
    """What is raised inside is the fault of a field."""
    try:
        yield
    except (EngineError, RewardFailed, ValueError) as error:
        raise RecipeError(f"{field}: {error}") from error
