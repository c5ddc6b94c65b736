"""How long prompts are, and whether a model has room for them and an answer."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..agents.renderer import Renderer
from ..agents.template import TemplateRefuses
from ..envs import Task, TaskSet, ToolEnv, ToolSpec, UserMessage
from .arena import Arena
from .parts import load_renderer
from .recipe import Recipe
from .recipe_file import RecipeError

NUM_PROMPTS = 16
"""Tasks whose prompts are looked at."""


def context_limit(recipe: Recipe, arena: Arena, model: Path | None) -> tuple[int, str] | None:
    """Tokens that prompt and answers may have together, and what limits them; None where nothing says.

    `model` None: a tiny one that is still to be made.
    """
    engine, budget = recipe.engine, arena.env.budget.merged(recipe.source.budget)
    limits = {
        "engine.max_context": engine.max_context,
        f"{recipe.source_field}.budget.max_context": budget.max_context,
    }
    if recipe.model.tiny is not None:
        limits["model.tiny.max_context"] = recipe.model.tiny.max_context
    elif model is not None and (engine.kind == "local" or engine.max_context is None):
        # vLLM takes more than a model was made for, if it is told how.
        config: dict[str, Any] = json.loads((model / "config.json").read_text(encoding="utf-8"))
        limits["max_position_embeddings of the model"] = config.get("text_config", config).get(
            "max_position_embeddings"
        )
    return min(((limit, name) for name, limit in limits.items() if limit is not None), default=None)


def check_prompts(recipe: Recipe, arena: Arena, model: Path) -> list[int]:
    """Tokens of some training tasks' prompts as they are shown at first, without what `reset` may add; none
    where `reset` asks.

    Raises `RecipeError` where the chat template refuses one, and where none leaves room for an answer.
    """
    lengths, found = _rendered(recipe, arena, model), context_limit(recipe, arena, model)
    if lengths and found is not None and min(lengths) >= found[0]:
        raise RecipeError(
            f"{found[1]}: {found[0]} tokens are for prompt and answers together, and of "
            f"{len(lengths)} prompts the shortest has {min(lengths)}; raise it, or shorten the prompts"
        )
    return lengths


def probe_prompts(renderer: Renderer, tasks: Iterable[Task]) -> list[tuple[int, ...]]:
    """[num][T] prompts for the canary; of tasks that `reset` asks, anything will do."""
    asked = ((task, () if task.is_asked else (UserMessage(task.id),)) for task in tasks)
    return [renderer.opening((*task.messages, *more), task.tools) for task, more in asked]


def _rendered(recipe: Recipe, arena: Arena, model: Path) -> list[int]:
    renderer = load_renderer(recipe, model)
    usual: tuple[ToolSpec, ...] = ()
    if issubclass(arena.env, ToolEnv):
        usual = tuple(tool.spec for tool in arena.env.offered.values())
    lengths: list[int] = []
    for task in _spread(arena.train):
        if not task.is_asked:
            continue
        try:
            lengths.append(len(renderer.opening(task.messages, task.tools or usual)))
        except TemplateRefuses as error:
            raise RecipeError(f"{recipe.source_field}: task {task.id!r}: {error}") from error
    return lengths


def _spread(tasks: TaskSet) -> list[Task]:
    """As many as are looked at, from all over the set, which may be in an order."""
    number = min(NUM_PROMPTS, len(tasks))
    return [tasks[at * len(tasks) // number] for at in range(number)]
