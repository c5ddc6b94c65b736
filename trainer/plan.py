"""What a recipe comes to, in numbers, before a model is loaded: `palaestra train --dry-run`.

    episodes = steps x tasks x group size         each has at most turns x tokens of an answer
    updates  = steps x updates of a step          each takes at most so many micro-batches

Bounds, not guesses: None where a recipe leaves something open. Imports without torch.
"""

from math import ceil
from statistics import fmean
from typing import Any

from .arena import Arena
from .estimate import estimate
from .lint import lint, max_sampled
from .prompts import check_prompts, context_limit
from .ranks.launch import world_size
from .recipe import Recipe
from .recipe_file import settle
from .weights.model_size import model_folder


def plan(given: Recipe, arena: Arena) -> dict[str, Any]:
    """Everything that would be run. Raises `RecipeError` where a prompt cannot be rendered, or none fits."""
    recipe = settle(given, len(arena.train))
    grpo, size = recipe.grpo, estimate(recipe)
    per_step = grpo.tasks_per_step * grpo.group_size
    evaluations = _num_evaluations(recipe)
    prompts, sampled = _prompts(recipe, arena), max_sampled(recipe, arena)
    longest = _longest_row(recipe, arena, None if prompts is None else prompts["max"], sampled)
    return {
        "folder": str(recipe.folder),
        "train_tasks": len(arena.train),
        "held_out_tasks": len(arena.held_out),
        "steps": grpo.steps,
        "episodes": grpo.steps * per_step,
        "epochs": grpo.steps * grpo.tasks_per_step / len(arena.train),
        "evaluations": evaluations,
        "evaluated_episodes": evaluations * recipe.evaluation.samples * len(arena.held_out),
        "warm_start_updates": 0 if recipe.warm_start is None else recipe.warm_start.steps,
        "optimizer_updates": grpo.steps * grpo.updates_per_step,
        "prompt_tokens": prompts,
        "max_sampled_tokens_per_episode": sampled,
        "max_sampled_tokens_per_step": _times(per_step, sampled),
        "max_sampled_tokens": _times(grpo.steps * per_step, sampled),
        "max_row_tokens": longest,
        "max_micro_batches_per_update": None if longest is None else _micro_batches(recipe, longest),
        "parameters": None if size is None else size.parameters,
        "trained_parameters": None if size is None else size.trained_parameters,
        "memory_mb": None if size is None else size.memory_mb,
        "memory_of": None if size is None else f"{size.largest_stage}, rank 0 of {size.ranks}",
        "look_again": [str(each) for each in lint(recipe, arena)],
    }


def _num_evaluations(recipe: Recipe) -> int:
    """Before training, on the way, and the last one."""
    section = recipe.evaluation
    first = (1 if recipe.warm_start is None else 2) if section.at_start else 0
    on_the_way = 0 if section.every is None else len(range(section.every, recipe.grpo.steps, section.every))
    return first + on_the_way + 1


def _prompts(recipe: Recipe, arena: Arena) -> dict[str, float] | None:
    """Tokens of some prompts; None for a tiny model, whose tokenizer is made by training, and where `reset`
    says what is asked."""
    folder = model_folder(recipe)
    if folder is None or not (lengths := check_prompts(recipe, arena, folder)):
        return None
    return {"tasks": len(lengths), "min": min(lengths), "mean": fmean(lengths), "max": max(lengths)}


def _longest_row(recipe: Recipe, arena: Arena, prompt: float | None, sampled: int | None) -> int | None:
    """Tokens of the longest episode: the whole context, or less of it where it is one question and answer."""
    found = context_limit(recipe, arena, model_folder(recipe))
    limits = [] if found is None else [found[0]]
    turns = arena.env.budget.merged(recipe.source.budget).max_turns
    if turns == 1 and prompt is not None and sampled is not None:
        limits.append(int(prompt) + sampled)
    return min(limits, default=None)


def _micro_batches(recipe: Recipe, longest: int) -> int:
    """Forward and backward passes of an update on each rank, if every episode is one row of that length."""
    grpo = recipe.grpo
    rows = ceil(grpo.tasks_per_step * grpo.group_size / grpo.updates_per_step / world_size())
    return ceil(rows / max(1, grpo.micro_batch_tokens // longest))


def _times(number: int, tokens: int | None) -> int | None:
    return None if tokens is None else number * tokens
