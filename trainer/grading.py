"""The grading stage of a run, made from its recipe."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..agents.grading.job import GradeAdapter, GradeLimits
from ..agents.grading.stage import Grading
from ..agents.ledger import Ledger
from ..envs import Env
from ..envs.errors import no_exit
from ..envs.graders.grading import AnyGrader, GroupGrader
from ..envs.graders.load import UnknownReward, load_any
from ..envs.play import put_away
from .recipe import GradingSection, Recipe
from .recipe_file import RecipeError, make_spec

if TYPE_CHECKING:
    from ..agents.grading.callback import CallbackServer
    from .arena import Arena


def load_grader(name: str) -> AnyGrader:
    """The grader that is called so, as the `reward` of a recipe is: "file.py:name", a function or a grader.

    Raises `RecipeError`.
    """
    try:
        with no_exit():
            return load_any(name)
    except UnknownReward as error:
        raise RecipeError(f"--grader: {error}") from error
    except Exception as error:  # its constructor is other people's code
        raise RecipeError(f"--grader {name}: {type(error).__name__}: {error}") from error


@asynccontextmanager
async def open_grading(
    recipe: Recipe,
    arena: "Arena",
    ledger: Ledger,
    folder: Path,
    *,
    grader: AnyGrader | None = None,
    is_wanted: bool = False,
) -> AsyncGenerator[Grading | None, None]:
    """The stage that the recipe asks for, or that a grader of groups needs; None: graded in the rollout.

    `folder`: the run's. `grader`: instead of the recipe's, in this process. `is_wanted`: a stage also where
    the recipe has none. Raises `RecipeError`.
    """
    env = arena.make_env() if grader is None else None
    try:
        async with _opened(recipe, arena, ledger, folder, grader, env, is_wanted) as grading:
            yield grading
    finally:
        if env is not None:
            await put_away(env)


@asynccontextmanager
async def _opened(
    recipe: Recipe,
    arena: "Arena",
    ledger: Ledger,
    folder: Path,
    grader: AnyGrader | None,
    env: Env[Any] | None,
    is_wanted: bool,
) -> AsyncGenerator[Grading | None, None]:
    section = recipe.grading
    if grader is not None and section is not None:
        section = section.model_copy(update={"kind": "inline"})
    if env is not None:
        grader = env.grader
    if section is None and (is_wanted or isinstance(grader, GroupGrader)):
        seconds = recipe.source.grader_timeout_s
        section = GradingSection(attempt_s=seconds, total_s=seconds, max_attempts=1)
    if section is None or (grader is None and recipe.grading is None):
        yield None
        return
    if grader is None and not (section.command or section.url or section.function):
        raise RecipeError(
            f"grading: {recipe.source.id} has no grader, only step rewards; name one by grading.command, "
            "grading.url or grading.function, or leave the section out"
        )
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
    recipe: Recipe, section: GradingSection, grader: AnyGrader | None, ledger: Ledger, folder: Path
) -> GradeAdapter:
    """Where grades are made. Raises `RecipeError`."""
    try:
        match section.kind:
            case "inline":
                from ..agents.grading.inline import Inline

                assert grader is not None, "open_grading checked it"
                return Inline(grader)
            case "subprocess":
                from ..agents.grading.program import Program, own_process

                if section.command:
                    return Program(section.command, folder=folder / "grading")
                if recipe.env is None:
                    raise ValueError(
                        "subprocess: the grader of an env can be made in another process, a `reward` can't; "
                        "name a program by grading.command, or choose another kind"
                    )
                if recipe.env.partners:
                    raise ValueError(
                        f"subprocess: env.partners.{next(iter(recipe.env.partners))} is not there in another "
                        "process; set grading.kind: inline, or name a program by grading.command"
                    )
                return own_process(recipe.env.id, recipe.env.options, folder=folder / "grading")
            case "sandbox":
                from ..agents.grading.boxed import Boxed

                files = {path.name: path.read_bytes() for path in section.files}
                return Boxed(section.command, make_spec("grading.sandbox", section.sandbox), files=files)
            case "http":
                return _web(section, ledger)
            case "lambda":
                return _event(section, ledger)
    except (TypeError, ValueError, OSError) as error:
        raise RecipeError(f"grading: {error}") from error


def _web(section: GradingSection, ledger: Ledger) -> GradeAdapter:
    from ..agents.grading.web import Web

    assert section.url is not None, "load_recipe checked it"
    return Web(section.url, token_env=section.token_env, callback=_callback(section, ledger))


def _event(section: GradingSection, ledger: Ledger) -> GradeAdapter:
    from ..agents.grading.event import LambdaEvent

    assert section.function is not None, "load_recipe checked it"
    return LambdaEvent(
        section.function,
        answers=section.answers,
        token_env=section.token_env,
        callback=_callback(section, ledger),
        endpoint_url=section.endpoint_url,
    )


def _callback(section: GradingSection, ledger: Ledger) -> "CallbackServer | None":
    from ..agents.grading.callback import CallbackServer

    if not section.callback:
        return None
    return CallbackServer(ledger, port=section.callback_port, public_url=section.callback_url)
