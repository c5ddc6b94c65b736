"""What a recipe says of its evaluations and hardly means: a part of `lint.py`."""

from collections.abc import Callable

from .arena import Arena
from .recipe import Recipe


def _few_held_out(recipe: Recipe, arena: Arena) -> tuple[str, str] | None:
    if len(arena.held_out) >= 30:
        return None
    return (
        f"{recipe.source_field}.held_out",
        f"{len(arena.held_out)} tasks give an interval of +-{98 / len(arena.held_out) ** 0.5:.0f} points or "
        "so around a pass rate of one half; 200 give +-7",
    )


def _never_stopped(recipe: Recipe, arena: Arena) -> tuple[str, str] | None:
    section, every = recipe.evaluation.early_stopping, recipe.evaluation.every
    if section is None or every is None:
        return None
    first = 0 if recipe.evaluation.at_start else every
    if first + section.patience * every < recipe.grpo.steps:
        return None
    return (
        "evaluation.early_stopping.patience",
        f"{section.patience} evaluations after the one of step {first}, each {every} steps, are not over "
        f"before grpo.steps={recipe.grpo.steps}, so that nothing is ever stopped; lower it, or "
        "evaluation.every",
    )


def _best_not_kept(recipe: Recipe, arena: Arena) -> tuple[str, str] | None:
    if recipe.evaluation.early_stopping is None or recipe.checkpoint.keep_best:
        return None
    return (
        "checkpoint.keep_best",
        "0 keeps the policy at which training was stopped, and not the better one before it; set it to 1",
    )


def _same_samples(recipe: Recipe, arena: Arena) -> tuple[str, str] | None:
    section = recipe.evaluation
    if section.samples == 1 or recipe.evaluation_sampling.temperature:
        return None
    return (
        "evaluation.samples",
        f"{section.samples} answers at temperature 0 are the same one each time; set it to 1, or "
        "evaluation.temperature over 0",
    )


def _never_told(recipe: Recipe, arena: Arena) -> tuple[str, str] | None:
    section = recipe.evaluation
    over = [k for k in section.pass_at or () if k > section.samples]
    if not over:
        return None
    return (
        "evaluation.pass_at",
        f"pass@{over[0]} takes {over[0]} samples of a task, and evaluation.samples is {section.samples}, so "
        "that it is never told; raise evaluation.samples",
    )


def _cut_shorter(recipe: Recipe, arena: Arena) -> tuple[str, str] | None:
    limit, usual = recipe.evaluation.max_tokens, recipe.sampling.max_tokens
    if limit is None or limit >= usual:
        return None
    return (
        "evaluation.max_tokens",
        f"{limit} cuts answers off that training lets grow to sampling.max_tokens={usual}, so that what was "
        "learned may not be seen; leave it out",
    )


EVALUATION_RULES: dict[str, Callable[[Recipe, Arena], tuple[str, str] | None]] = {
    "few_held_out": _few_held_out,
    "never_stopped": _never_stopped,
    "best_not_kept": _best_not_kept,
    "same_samples": _same_samples,
    "never_told": _never_told,
    "cut_shorter": _cut_shorter,
}
