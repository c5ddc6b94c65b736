"""`palaestra replay`: a stored step again, from the run file alone."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from ..agents.ledger import Ledger
from ..trainer.recipe_file import RecipeError, read_recipe
from .console import open_console
from .options import Json

if TYPE_CHECKING:
    from ..trainer.replay import Replayed

TOLERANCE = 1e-6
"""Between the stored loss, computed in the model's precision, and the one computed here in fp64."""


def replay(
    run: Annotated[Path, typer.Argument(help="The folder of a run, such as runs/quickstart.")],
    step: Annotated[int | None, typer.Option(help="Which step; default: all.")] = None,
    as_json: Json = False,
) -> None:
    """Compute masks, advantages and loss of stored steps again; exit code 1 where they differ."""
    from ..trainer.replay import replay_stored

    recipe = read_recipe(run / "recipe.yaml")
    rows: list[dict[str, Any]] = []
    with Ledger(run, read_only=True) as ledger:
        stored = ledger.step_numbers()
        if not stored:
            raise RecipeError(f"{run}: has no finished step to replay yet")
        if step is not None and step not in stored:
            raise RecipeError(f"--step {step}: {run} has no such step; it has {stored[0]} .. {stored[-1]}")
        for number in stored if step is None else [step]:
            try:
                found = replay_stored(ledger, recipe, number)
            except ValueError as error:  # the episodes make other updates or rows than the record has
                rows.append(_mismatch(number, str(error)))
            else:
                rows += [_row(number, update, each) for update, each in enumerate(found)]
                rows += [_nothing_trained(number)] if not found else []
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


def _mismatch(step: int, why: str) -> dict[str, Any]:
    return _empty(step) | {"same": False, "differences": [why]}


def _nothing_trained(step: int) -> dict[str, Any]:
    """No episode of the step was trained on, then as now."""
    return _empty(step) | {"same": True, "differences": []}


def _empty(step: int) -> dict[str, Any]:
    return {"step": step, "update": None, "stored_loss": None, "loss": None}


def _show(rows: list[dict[str, Any]]) -> None:
    table = Table("step", "update", "stored loss", "replayed loss", "")
    for row in rows:
        losses = (f"{row[name]:+.7f}" if row[name] is not None else "-" for name in ("stored_loss", "loss"))
        verdict = "[green]same[/green]" if row["same"] else "[red]DIFFERS[/red]"
        update = "-" if row["update"] is None else str(row["update"])
        table.add_row(str(row["step"]), update, *losses, verdict)
    console = open_console()
    console.print(table)
    for row in rows:
        for difference in row["differences"]:
            console.print(f"step {row['step']}: {difference}", markup=False, highlight=False)
