"""`palaestra train`: run a recipe."""

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from ..trainer.folder import check_folder
from ..trainer.plan import plan
from ..trainer.preflight import preflight
from ..trainer.ranks.launch import own_rank
from ..trainer.recipe import Recipe
from ..trainer.recipe_file import load_recipe
from ..trainer.redaction import redacted
from ..trainer.yaml_text import write_yaml
from .console import only_json, open_console, print_json
from .options import Json, RecipePath, Sets
from .progress import TerminalProgress
from .run_name import name_run

if TYPE_CHECKING:  # torch is loaded when training starts, not when help is printed
    from ..trainer.reporting.summary import Summary


def train(
    recipe: RecipePath,
    overrides: Sets = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with this run where it stopped, exactly.")
    ] = False,
    start: Annotated[
        Path | None,
        typer.Option(
            "--continue",
            metavar="RUN",
            help="Begin a new run on the weights of another run, checkpoint, adapter or model, "
            "with a fresh optimizer.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the recipe, print it and its plan, stop.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train and evaluate a policy. Exit code 1 when nothing of the final evaluation has a number."""
    loaded = load_recipe(recipe, [*(overrides or ()), *_continuing(start)])
    name_run(loaded.name)
    if dry_run:
        if own_rank() == 0:
            _plan(loaded, as_json)
        return
    if own_rank() > 0:  # torchrun started several: the first one runs, the others learn with it
        from ..trainer.ranks.leader import follow

        follow(loaded.threads, deterministic=loaded.deterministic, device=loaded.model.device)
        return
    check_folder(loaded, resume=resume)  # before the seconds that torch takes to load
    console = open_console(stderr=as_json)
    with only_json(as_json), TerminalProgress(console) as progress:
        from ..trainer.interrupt import Interrupted
        from ..trainer.run import train as run

        try:
            summary = asyncio.run(run(loaded, progress, resume=resume))
        except Interrupted as stopped:
            progress.note(str(stopped))
            raise typer.Exit(stopped.exit_code) from None
    if as_json:
        print_json(summary.to_json())
    else:
        _show(console, loaded, summary)
    if summary.evaluations["final"].reward is None:
        raise typer.Exit(1)


def _continuing(start: Path | None) -> list[str]:
    """The fields that `--continue` stands for."""
    if start is None:
        return []
    return ["model.path=null", "model.tiny=null", f"model.start={json.dumps(str(start))}"]


def _plan(recipe: Recipe, as_json: bool) -> None:
    """What would be run, after every check that needs no model."""
    with only_json(as_json):
        arena = asyncio.run(preflight(recipe))
        planned = plan(recipe, arena)
    resolved = redacted(recipe.model_dump(mode="json"))
    if as_json:
        print_json({"plan": planned, "recipe": resolved})
    else:
        typer.echo(write_yaml({**resolved, "plan": planned}), nl=False)


def _show(console: Console, recipe: Recipe, summary: "Summary") -> None:
    """The table at the end of a run."""
    table = Table(title=f"{summary.name}: held-out tasks, 95 % intervals clustered by task")
    for column in ("policy", "pass@1", "reward", "episodes", "without a number"):
        table.add_column(column)
    for name, found in summary.evaluations.items():
        missing = found.num_episodes - found.outcomes.get("scored", 0)
        table.add_row(
            name,
            str(found.pass_at.get(1, "-")),
            str(found.reward or "-"),
            str(found.num_episodes),
            str(missing),
        )
    console.print(table)
    console.print(f"{recipe.folder}: {summary.steps} steps in {summary.seconds:.0f} s", highlight=False)
    if summary.stopped is not None:
        console.print(summary.stopped, highlight=False)
