"""Fields that a recipe sets and that nothing reads: a part of `lint.py`."""

from collections.abc import Iterator

from pydantic import BaseModel

from .arena import Arena
from .recipe import Recipe


def never_read(recipe: Recipe, arena: Arena) -> tuple[str, str] | None:
    """The first field that is not as it is usual, and makes no difference."""
    for field, why in _unread(recipe):  # without its value, which may be a secret
        return field, f"is set, and makes no difference {why}; leave it out, or set that"
    return None


def _unread(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """(field, because of what)."""
    engine, grpo, grading, warm = recipe.engine, recipe.grpo, recipe.grading, recipe.warm_start
    if engine.kind == "local":
        names = ("port", "args", "api_key_env", "canary_bound")
        yield from _set(engine, "engine", names, "with engine.kind=local")
    elif engine.url is not None:
        yield from _set(engine, "engine", ("port", "args"), "to a server that runs already (engine.url)")
    if not grpo.sft_coefficient:
        yield from _set(grpo, "grpo", ("sft_batch", "sft_demonstrations"), "without grpo.sft_coefficient")
    if not grpo.kl_coefficient:
        yield from _set(grpo, "grpo", ("kl_kind",), "without grpo.kl_coefficient")
    if recipe.optimizer.schedule == "constant":
        yield from _set(recipe.optimizer, "optimizer", ("min_lr_ratio",), "without optimizer.schedule")
    if warm is not None and warm.optimizer.schedule == "constant":
        why = "without warm_start.optimizer.schedule"
        yield from _set(warm.optimizer, "warm_start.optimizer", ("min_lr_ratio",), why)
    if grading is not None and not grading.callback:
        yield from _set(grading, "grading", ("callback_port", "callback_url"), "without grading.callback")
    if grading is not None and grading.close == "wait":
        yield from _set(grading, "grading", ("close_after_s",), "with grading.close=wait")


def _set(section: BaseModel, name: str, fields: tuple[str, ...], why: str) -> Iterator[tuple[str, str]]:
    for field in fields:
        usual = type(section).model_fields[field].get_default(call_default_factory=True)
        if getattr(section, field) != usual:
            yield f"{name}.{field}", why
