"""`palaestra check env|engine|sandbox|recipe`: prove a part before a run depends on it."""

import asyncio
import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.table import Table
from rich.text import Text

from ..envs import Env, load_env
from ..envs.check import Check, check_env
from ..trainer.arena import make_tasks
from ..trainer.preflight import preflight
from ..trainer.recipe_file import RecipeError, load_recipe
from .console import only_json, open_console, print_json
from .options import Json, RecipePath, Sets
from .progress import TerminalProgress

check = typer.Typer(
    help="Prove a part before a run depends on it.", no_args_is_help=True, rich_markup_mode=None
)


@check.command("recipe")
def check_recipe(recipe: RecipePath, overrides: Sets = None, as_json: Json = False) -> None:
    """Every field of a recipe, its environment, tasks, loss, sandbox and engine; nothing is run."""
    loaded = load_recipe(recipe, overrides or ())
    with only_json(as_json):
        arena = asyncio.run(preflight(loaded))
    rows = [
        _row("fields", f"{recipe} is a recipe"),
        _row("environment", f"{loaded.source.id} is {arena.env.__module__}.{arena.env.__qualname__}"),
        _row("tasks", f"{len(arena.train)} to train on, {len(arena.held_out)} held out"),
        _row("parts", "what the run needs of this machine is there"),
    ]
    _finish(f"recipe {loaded.name}", rows, as_json)


@check.command("env")
def check_environment(
    name: Annotated[str, typer.Argument(help='A registered environment, or "module:Class".')],
    tasks: Annotated[int, typer.Option(min=1, help="Tasks to play.")] = 20,
    options: Annotated[str, typer.Option(help="Options of its task set, such as '{size: 100}'.")] = "{}",
    as_json: Json = False,
) -> None:
    """Oracle, floor, determinism, isolation, teardown and leaks of an environment."""
    with only_json(as_json):
        env = load_env(name)
        found = _tasks_of(env, options)
        report = asyncio.run(check_env(env, num_tasks=tasks, task_options=found))
    _finish(f"environment {name}", report.checks, as_json)


@check.command("sandbox")
def check_sandbox(
    backend: Annotated[
        str, typer.Option(help='"auto", "namespaces", "landlock", "docker" or an installed one.')
    ] = "auto",
    full: Annotated[
        bool, typer.Option("--full", help="Run the whole conformance suite too; it takes minutes.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Prove the walls of a sandbox tier on this machine; say who enforces its limits and how fast it is."""
    from .check_sandbox import check_tiers

    with TerminalProgress(open_console(stderr=True)) if full else nullcontext() as progress:
        report = asyncio.run(check_tiers(backend, progress))
    _finish(
        f"sandbox {report.tier or backend}",
        report.checks,
        as_json,
        report.facts,
        passed=report.passed,
    )


@check.command("engine")
def check_engine(
    recipe: RecipePath,
    model: Annotated[Path | None, typer.Option(help="A model folder; default: the recipe's.")] = None,
    overrides: Sets = None,
    as_json: Json = False,
) -> None:
    """Start a recipe's engine and compare its log-probabilities with the learner's."""
    from ..trainer.engine_check import compare_engine

    loaded = load_recipe(recipe, overrides or ())
    with only_json(as_json), TerminalProgress(open_console(stderr=True)) as progress:
        report = asyncio.run(compare_engine(loaded, model, progress))
    drift = f"differ by {report.drift:.1e} nats from the learner's, bound {report.bound:.0e}"
    rows = [
        _row("starts", f"{report.kind}, {report.max_context} tokens of context"),
        _row("same seed, same tokens", "alone and in a batch", report.is_repeatable),
        _row("log-probabilities", drift, report.drift <= report.bound),
    ]
    facts = {"max_context": report.max_context, "drift": report.drift, "bound": report.bound}
    _finish(f"engine {report.kind}", rows, as_json, facts)


def _tasks_of(env: type[Env[Any]], options: str) -> dict[str, Any]:
    """The options as keyword arguments, when the environment makes tasks of them. Raises `RecipeError`."""
    field = f"--options {options!r}"
    try:
        mapping = dict[str, Any](yaml.safe_load(options))
    except (yaml.YAMLError, TypeError, ValueError) as error:
        raise RecipeError(
            f"{field}: {error}; write the arguments of {env.__name__}.tasks "
            "as a mapping, such as '{size: 100}'"
        ) from error
    make_tasks(field, env, mapping)
    return mapping


def _row(name: str, detail: str, passed: bool = True) -> Check:
    return Check(name=name, passed=passed, detail=detail)


def _finish(
    title: str,
    checks: Sequence[Check],
    as_json: bool,
    facts: Mapping[str, Any] | None = None,
    *,
    passed: bool | None = None,
) -> None:
    """Print the rows; exit code 1 when one of them failed, or `passed` says so."""
    if passed is None:
        passed = all(check.passed for check in checks)
    if as_json:
        rows = [dataclasses.asdict(check) for check in checks]
        print_json({"title": title, "passed": passed, "checks": rows, **(facts or {})})
    else:
        table = Table("check", "", "detail", title=Text(title))
        for check in checks:
            verdict = Text("ok", "green") if check.passed else Text("FAILED", "red")
            table.add_row(Text(check.name), verdict, Text(check.detail))
        open_console().print(table)
    if not passed:
        raise typer.Exit(1)
