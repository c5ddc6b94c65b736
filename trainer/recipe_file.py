"""Reading a recipe: file, command-line overrides, and errors that name the cure."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from ..agents.formats import tool_format
from ..envs.options import from_options
from ..sandboxes import SandboxSpec
from .recipe import CorrectionSection, GradingSection, GrpoSection, OptimizerSection, Recipe, TinyModel
from .recipe_explain import explain
from .sections.tasks import spelled_out
from .yaml_text import read_yaml

BIASED_FLAGS = ("--logprobs-mode", "--override-generation-config")
"""Of vLLM: raw logprobs are those before the temperature; a generation config may hold `CUTS`."""


class RecipeError(ValueError):
    """A recipe that cannot be run. The message names the field, the value and the cure."""


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe that shall be run; `overrides` are "a.b=value" strings, the value in YAML.

    Raises `RecipeError`, with every wrong field in the message.
    """
    recipe = read_recipe(path, overrides)
    check_recipe(recipe)
    return recipe


def read_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe, also one whose run is over and whose model may be gone."""
    try:
        data: object = read_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"cannot read the recipe {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not YAML: {error}") from error
    if not isinstance(data, dict):
        raise RecipeError(
            f"{path} must be a YAML mapping such as `name: my-run`, found {type(data).__name__}"
        )
    fields: dict[str, Any] = spelled_out(data)
    fields.setdefault("name", _name_after(path))
    for override in overrides:
        _apply(fields, override)
    try:
        return _beside(path.parent, Recipe.model_validate(fields))
    except ValidationError as error:
        lines = "\n".join(explain(detail) for detail in error.errors())
        raise RecipeError(f"{path} cannot be run:\n{lines}") from error


def _name_after(path: Path) -> str:
    """The name of a run whose recipe gives none."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).lstrip("._-") or "run"


def _beside(folder: Path, recipe: Recipe) -> Recipe:
    """With the files that are not in the present folder, but beside the recipe."""

    def found(name: str) -> str:
        file = name.partition(":")[0]
        there = folder / file
        return f"{folder / name}" if not Path(file).exists() and there.exists() else name

    data, reward = recipe.data, recipe.reward
    if data is None or reward is None:
        return recipe
    changes: dict[str, Any] = {
        "data": data.model_copy(update={"path": found(data.path)}),
        "reward": reward.model_copy(update={"function": found(reward.function)}),
        "tools": None if recipe.tools is None else found(recipe.tools),
    }
    return recipe.model_copy(update=changes)


def check_recipe(recipe: Recipe) -> None:
    """Raise `RecipeError` for what is wrong between fields rather than in one."""
    _check_model(recipe)
    _check_engine(recipe)
    _check_grpo(recipe.grpo)
    if recipe.grading is not None:
        _check_grading(recipe.grading)
    _check_watching(recipe)
    grpo, warm = recipe.grpo, recipe.warm_start
    if not grpo.steps and warm is None:
        raise RecipeError(
            "grpo.steps: 0 is for a warm start alone; add a `warm_start:` section, or take steps"
        )
    if grpo.steps:
        _check_schedule("optimizer", recipe.optimizer, grpo.steps * grpo.updates_per_step)
    if warm is not None:
        _check_schedule("warm_start.optimizer", warm.optimizer, warm.steps)


def settle(recipe: Recipe, num_tasks: int) -> Recipe:
    """The recipe with as many steps as `grpo.epochs` over so many training tasks leave of them.

    Raises `RecipeError` where a schedule has no time to fall in what is left.
    """
    grpo = recipe.grpo
    if grpo.epochs is None:
        return recipe
    steps = min(grpo.steps, math.ceil(grpo.epochs * num_tasks / grpo.tasks_per_step))
    if steps:
        _check_schedule("optimizer", recipe.optimizer, steps * grpo.updates_per_step)
    return recipe.model_copy(update={"grpo": grpo.model_copy(update={"steps": steps})})


def _check_model(recipe: Recipe) -> None:
    model, copied = recipe.model, recipe.folder / "start"
    if [model.path, model.start, model.tiny].count(None) != 2:
        raise RecipeError("model: set exactly one of model.path, model.start and model.tiny")
    if model.start is not None and not model.start.is_dir() and not copied.is_dir():
        raise RecipeError(f"model.start: {model.start} is no folder; give a run's, such as runs/NAME")
    if model.path is not None and not (model.path / "config.json").is_file():
        raise RecipeError(
            f"model.path: {model.path} is not a folder with a config.json; give a Hugging Face model "
            "folder, or use model.tiny to make a small model on the spot"
        )
    if model.tiny is not None:
        _check_tiny(model.tiny)
    warm = None if recipe.warm_start is None else recipe.warm_start.lora
    for field, lora in (("lora", recipe.lora), ("warm_start.lora", warm)):
        if lora is not None and lora.base_dtype == "bfloat16" and model.dtype != "bfloat16":
            raise RecipeError(
                f"{field}.base_dtype: bfloat16 with model.dtype: {model.dtype} computes in bfloat16 what the "
                "engine computes in float32; set model.dtype to bfloat16 as well"
            )
    try:
        tool_format(model.tool_format)
    except ValueError as error:
        raise RecipeError(f"model.tool_format: {error}") from error


def _check_engine(recipe: Recipe) -> None:
    url = recipe.engine.url
    if url is not None and recipe.engine.kind == "local":
        raise RecipeError(f"engine.url: {url} is for engine.kind: vllm, and it is local; set one of the two")
    if url is not None and (recipe.model.path is None or recipe.warm_start is not None):
        raise RecipeError(
            f"engine.url: {url} serves a model of its own; set model.path to that model's "
            "folder, without warm_start, or leave engine.url out and a server is started"
        )
    if url is not None and recipe.lora is None:
        raise RecipeError(  # and a server that outlived a run would hold that run's weights as version 0
            f"engine.url: {url} may serve others too, so that adapters alone are published "
            "to it; add a `lora:` section, or leave engine.url out and a server is started"
        )
    _check_flags(recipe.engine.args)


def _check_grpo(grpo: GrpoSection) -> None:
    if grpo.kl_coefficient and not grpo.has_reference:
        raise RecipeError(
            f"grpo.kl_coefficient: {grpo.kl_coefficient} needs the reference policy; leave grpo.reference out"
        )
    _check_correction(grpo)
    overlong = grpo.overlong
    if overlong is not None and overlong.cache_tokens > overlong.max_tokens:
        raise RecipeError(
            f"grpo.overlong.cache_tokens: {overlong.cache_tokens} is over max_tokens={overlong.max_tokens}, "
            "and it is the last part of those; lower it"
        )
    if grpo.min_group > grpo.group_size:
        raise RecipeError(
            f"grpo.min_group: {grpo.min_group} is over grpo.group_size={grpo.group_size}, "
            "so that every group would be dropped; lower it"
        )


def _check_watching(recipe: Recipe) -> None:
    evaluation, keep_best = recipe.evaluation, recipe.checkpoint.keep_best
    if keep_best and evaluation.every is None:
        raise RecipeError(
            f"checkpoint.keep_best: {keep_best} needs evaluations on the way to tell which "
            "are the best; set evaluation.every"
        )
    if evaluation.early_stopping is not None and evaluation.every is None:
        raise RecipeError(
            "evaluation.early_stopping: needs evaluations on the way to tell when to stop; set "
            "evaluation.every"
        )


def make_spec(field: str, fields: Mapping[str, Any]) -> SandboxSpec:
    """The sandbox that `field` of a recipe asks for. Raises `RecipeError`."""
    try:
        return from_options(SandboxSpec, fields)
    except ValueError as error:
        dotted = f"{field}: {error}" if str(error).startswith("SandboxSpec") else f"{field}.{error}"
        raise RecipeError(dotted) from error


def _check_correction(grpo: GrpoSection) -> None:
    if grpo.old_policy == "engine" and grpo.correction not in (None, CorrectionSection()):
        raise RecipeError(
            f"grpo.correction: {grpo.correction} does nothing with grpo.old_policy: engine, whose ratios are "
            "taken to the engine itself; set old_policy to learner, or leave correction out"
        )


def _check_flags(args: Sequence[str]) -> None:
    for flag in args:
        if flag.partition("=")[0].replace("_", "-") in BIASED_FLAGS:
            raise RecipeError(
                f"engine.args: {flag} would bias the training without a word: ratios are of the distribution "
                "that was sampled from, whole and after its temperature; leave it out"
            )


def _check_grading(grading: GradingSection) -> None:
    kind = grading.kind
    needs = (("command", "sandbox"), ("url", "http"), ("function", "lambda"))
    takes: dict[str, tuple[str, ...]] = {
        "command": ("subprocess", "sandbox"),
        "files": ("sandbox",),
        "sandbox": ("sandbox",),
        "url": ("http",),
        "function": ("lambda",),
        "answers": ("lambda",),
        "endpoint_url": ("lambda",),
        "token_env": ("http", "lambda"),
        "callback": ("http", "lambda"),
    }
    for field, needed in needs:
        if kind == needed and not getattr(grading, field):
            raise RecipeError(f"grading.{field}: is missing; grading.kind: {kind} needs it")
    for field, kinds in takes.items():
        if getattr(grading, field) and kind not in kinds:
            raise RecipeError(
                f"grading.{field}: {kind} does not use it; set grading.kind to {' or '.join(kinds)}"
            )
    if kind == "lambda" and not (grading.answers or grading.callback):
        raise RecipeError(
            "grading.answers: is missing; nobody waits for an event: name where the function puts its "
            "answers, such as s3://bucket/prefix, or set grading.callback"
        )
    make_spec("grading.sandbox", grading.sandbox)
    if grading.total_s < grading.attempt_s:
        raise RecipeError(
            f"grading.total_s: {grading.total_s:g} is under grading.attempt_s={grading.attempt_s:g}, so that "
            "no try has its time; raise it"
        )


def _check_tiny(tiny: TinyModel) -> None:
    for field, value, what, divisor in (
        ("hidden", tiny.hidden, f"model.tiny.heads={tiny.heads}", tiny.heads),
        ("heads", tiny.heads, f"model.tiny.kv_heads={tiny.kv_heads}", tiny.kv_heads),
        ("head_dim", tiny.head_dim, "2", 2),
    ):
        if left := value % divisor:
            raise RecipeError(
                f"model.tiny.{field}: {value} is no multiple of {what}; {value + divisor - left} is one"
            )


def _check_schedule(name: str, section: OptimizerSection, updates: int) -> None:
    if section.schedule != "constant" and section.warmup_steps >= updates:
        raise RecipeError(
            f"{name}.warmup_steps: {section.warmup_steps} leaves nothing of the {updates} updates for the "
            f"{section.schedule!r} schedule to fall in; lower it, train longer, or set schedule: constant"
        )


def _apply(data: dict[str, Any], override: str) -> None:
    """Put one "a.b=value" into the mapping."""
    name, equals, text = override.partition("=")
    if not equals or not name:
        raise RecipeError(f"--set {override!r}: write it as a.b=value, for example --set grpo.steps=50")
    *parents, last = name.split(".")
    at = data
    for parent in parents:
        if at.get(parent) is None:
            at[parent] = {}
        if not isinstance(at[parent], dict):
            raise RecipeError(f"--set {override!r}: {parent!r} holds a value, not a section")
        at = at[parent]
    try:
        at[last] = read_yaml(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"--set {override!r}: {text!r} is not YAML; quote it as text") from error
