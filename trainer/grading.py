"""The grading stage of a run, made from its recipe."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from ..agents.grading.job import GradeAdapter, GradeLimits
from ..agents.grading.stage import Grading
from ..agents.ledger import Ledger
from ..envs.graders.grading import AnyGrader, GroupGrader
from ..sandboxes import SandboxSpec
from .recipe import GradingSection, Recipe
from .recipe_file import RecipeError

if TYPE_CHECKING:
    from .parts import Arena


@asynccontextmanager
async def open_grading(
    recipe: Recipe, arena: "Arena", ledger: Ledger, folder: Path
) -> AsyncGenerator[Grading | None, None]:
    """The stage that the recipe asks for, or that a grader of groups needs; None: graded in the rollout.

    `folder`: the run's. Raises `RecipeError`.
    """
    grader = arena.env(**recipe.env.options).grader
    section = recipe.grading
    if section is None and isinstance(grader, GroupGrader):
        seconds = recipe.env.grader_timeout_s
        section = GradingSection(attempt_s=seconds, total_s=seconds, max_attempts=1)
    if section is None or grader is None:
        yield None
        return
    async with Grading(
        ledger,
        make_adapter(recipe, section, grader, ledger, folder),
        grade_limits(section),
        reward_range=arena.env.reward_range,
        is_of_groups=isinstance(grader, GroupGrader),
    ) as grading:
        yield grading


def grade_limits(section: GradingSection) -> GradeLimits:
    """What the stage may take."""
    names = {each.name for each in fields(GradeLimits)} - {"close_after_s"}
    limits = {name: getattr(section, name) for name in names}
    return GradeLimits(**limits, close_after_s=None if section.close == "wait" else section.close_after_s)


def make_adapter(
    recipe: Recipe, section: GradingSection, grader: AnyGrader, ledger: Ledger, folder: Path
) -> GradeAdapter:
    """Where grades are made. Raises `RecipeError`."""
    try:
        match section.kind:
            case "inline":
                from ..agents.grading.inline import Inline

                return Inline(grader)
            case "subprocess":
                from ..agents.grading.program import Program, own_process

                if section.command:
                    return Program(section.command, folder=folder / "grading")
                return own_process(recipe.env.id, recipe.env.options, folder=folder / "grading")
            case "sandbox":
                from ..agents.grading.boxed import Boxed

                files = {path.name: path.read_bytes() for path in section.files}
                return Boxed(section.command, SandboxSpec(**section.sandbox), files=files)
            case "http":
                return _web(section, ledger)
    except (TypeError, ValueError, OSError) as error:
        raise RecipeError(f"grading: {error}") from error


def _web(section: GradingSection, ledger: Ledger) -> GradeAdapter:
    from ..agents.grading.callback import CallbackServer
    from ..agents.grading.web import Web

    callback = None
    if section.callback:
        callback = CallbackServer(ledger, port=section.callback_port, public_url=section.callback_url)
    assert section.url is not None, "load_recipe checked it"
    return Web(section.url, token_env=section.token_env, callback=callback)
