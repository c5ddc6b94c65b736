"""`palaestra replay`: a stored step again, from the run file alone."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from ..agents.ledger import Ledger
from ..trainer.recipe_file import RecipeError, load_recipe

if TYPE_CHECKING:
    from ..trainer.replay import Replayed

TOLERANCE = 1e-6
"""Between the stored loss, computed in the model's precision, and the one computed here in fp64."""


def replay(
    run: Annotated[Path, typer.Argument(help="The folder of a run, such as runs/quickstart.")],
    step: Annotated[int | None, typer.Option(help="Which step; default: all.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Compute masks, advantages and loss of stored steps again; exit code 1 where they differ."""
    from ..trainer.replay import replay_stored

    recipe = load_recipe(run / "recipe.yaml")
    found: dict[int, list[Replayed]] = {}
    with Ledger(run, read_only=True) as ledger:
        steps = ledger.step_numbers() if step is None else [step]
        for number in steps:
            if ledger.step(number) is None:
                raise RecipeError(
                    f"--step {number}: {run} has no such step; it has {_range(ledger.step_numbers())}"
                )
            found[number] = replay_stored(ledger, recipe, number)
    rows = [_row(number, update, each) for number in found for update, each in enumerate(found[number])]
    if as_json:
        typer.echo(json.dumps({"run": str(run), "updates": rows}))
    else:
        _show(rows)
    if not all(row["same"] for row in rows):
        raise typer.Exit(1)


def _row(step: int, update: int, found: "Replayed") -> dict[str, Any]:
    same = not found.differences and abs(found.loss - found.stored_loss) <= TOLERANCE
    return {
        "step": step,
        "update": update,
        "same": same,
        "stored_loss": found.stored_loss,
        "loss": None if found.differences else found.loss,
        "differences": list(found.differences),
    }


def _range(steps: list[int]) -> str:
    return f"{steps[0]} .. {steps[-1]}" if steps else "none"


def _show(rows: list[dict[str, Any]]) -> None:
    table = Table("step", "update", "stored loss", "replayed loss", "")
    for row in rows:
        loss = "-" if row["loss"] is None else f"{row['loss']:+.7f}"
        verdict = "[green]same[/green]" if row["same"] else "[red]DIFFERS[/red]"
        table.add_row(str(row["step"]), str(row["update"]), f"{row['stored_loss']:+.7f}", loss, verdict)
    console = Console()
    console.print(table)
    for row in rows:
        for difference in row["differences"]:
            console.print(f"step {row['step']}: {difference}", markup=False, highlight=False)
