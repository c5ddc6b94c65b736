"""`palaestra check env|engine|sandbox|recipe`: prove a part before a run depends on it."""

import asyncio
import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from ..envs import load_env
from ..trainer.recipe_file import load_recipe

check = typer.Typer(help="Prove a part before a run depends on it.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="Override a field: a.b=value.")]


@check.command("recipe")
def check_recipe(recipe: Path, overrides: Sets = None, as_json: Json = False) -> None:
    """Every field of a recipe, its environment and its tasks; nothing is run."""
    from ..trainer.parts import load_arena

    loaded = load_recipe(recipe, overrides or ())
    arena = load_arena(loaded)
    rows = [
        _row("fields", True, f"{recipe} is a recipe"),
        _row("environment", True, f"{loaded.env.id} is {arena.env.__module__}.{arena.env.__qualname__}"),
        _row("tasks", True, f"{len(arena.train)} to train on, {len(arena.held_out)} held out"),
    ]
    _finish(f"recipe {loaded.name}", rows, as_json)


@check.command("env")
def check_environment(
    name: Annotated[str, typer.Argument(help='A registered environment, or "module:Class".')],
    tasks: Annotated[int, typer.Option(min=1, help="Tasks to play.")] = 20,
    options: Annotated[str, typer.Option(help="Options of its task set, a JSON object.")] = "{}",
    as_json: Json = False,
) -> None:
    """Oracle, floor, determinism, isolation, teardown and leaks of an environment."""
    from ..envs.check import check_env

    report = asyncio.run(check_env(load_env(name), num_tasks=tasks, task_options=json.loads(options)))
    rows = [_row(item.name, item.passed, item.detail) for item in report.checks]
    _finish(f"environment {name}", rows, as_json)


@check.command("sandbox")
def check_sandbox(
    backend: Annotated[str, typer.Option(help='"auto", "namespaces", "landlock" or "docker".')] = "auto",
    as_json: Json = False,
) -> None:
    """Prove the walls of a sandbox tier on this machine."""
    from ..sandboxes.selftest import self_test

    report = asyncio.run(self_test(backend))
    rows = [_row(wall, problem is None, problem or "holds") for wall, problem in report.walls.items()]
    _finish(f"sandbox tier {report.tier}, {report.seconds:.2f} s", rows, as_json)


@check.command("engine")
def check_engine(
    recipe: Path,
    model: Annotated[Path | None, typer.Option(help="A model folder; default: the recipe's.")] = None,
    overrides: Sets = None,
    as_json: Json = False,
) -> None:
    """Start a recipe's engine and compare its log-probabilities with the learner's."""
    from ..trainer.engine_check import compare_engine

    report = asyncio.run(compare_engine(load_recipe(recipe, overrides or ()), model))
    rows = [
        _row("starts", True, f"{report.kind}, {report.max_context} tokens of context"),
        _row("same seed, same tokens", report.is_repeatable, "two calls of each prompt"),
        _row(
            "log-probabilities",
            report.drift <= report.bound,
            f"differ by {report.drift:.1e}, bound {report.bound:.0e}",
        ),
    ]
    _finish(f"engine {report.kind}", rows, as_json)


def _row(name: str, passed: bool, detail: str) -> dict[str, Any]:
    return {"name": name, "passed": passed, "detail": detail}


def _finish(title: str, rows: list[dict[str, Any]], as_json: bool) -> None:
    """Print the rows; exit code 1 when one of them failed."""
    passed = all(row["passed"] for row in rows)
    if as_json:
        typer.echo(json.dumps({"title": title, "passed": passed, "checks": rows}))
    else:
        table = Table(title=title)
        for column in ("check", "", "detail"):
            table.add_column(column)
        for row in rows:
            table.add_row(
                row["name"], "[green]ok[/green]" if row["passed"] else "[red]FAILED[/red]", row["detail"]
            )
        Console().print(table)
    if not passed:
        raise typer.Exit(1)
