"""`palaestra replay`: a stored step again, from the run file alone."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from ..agents.errors import LedgerError
from ..agents.ledger import Ledger
from ..trainer.recipe import Recipe
from ..trainer.recipe_file import RecipeError, read_recipe
from .console import open_console, print_json
from .options import Json


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One optimizer step, or a training step without any."""

    step: int
    update: int | None = None
    """Counts the optimizer steps of a training step; None where nothing was trained, or can be compared."""
    same: bool
    stored_loss: float | None = None
    loss: float | None = None
    """As replayed; None where tokens, masks or advantages are others already."""
    differences: tuple[str, ...] = ()


def replay(
    run: Annotated[Path, typer.Argument(help="The folder of a run, such as runs/quickstart.")],
    step: Annotated[int | None, typer.Option(help="Which step; default: all.")] = None,
    as_json: Json = False,
) -> None:
    """Compute masks, advantages and loss of stored steps again. Exit code 1 where they differ, or where
    anything that they are made of was altered since."""
    stored_recipe = run / "recipe.yaml"
    if not stored_recipe.is_file():
        raise RecipeError(
            f"{run}: there is no recipe.yaml; give the folder of a training run, such as runs/quickstart"
        )
    recipe = read_recipe(stored_recipe)
    with Ledger(run, read_only=True) as ledger:
        stored = ledger.step_numbers()
        if not stored:
            raise RecipeError(f"{run}: has no finished step yet, so there is nothing to replay")
        if step is not None and step not in stored:
            raise RecipeError(f"--step {step}: {run} has no such step; it has {stored[0]} .. {stored[-1]}")
        steps = stored if step is None else [step]
        lines = [line for number in steps for line in _replay(ledger, recipe, number)]
    if as_json:
        print_json({"run": str(run), "updates": [dataclasses.asdict(line) for line in lines]})
    else:
        _show(lines)
    if not all(line.same for line in lines):
        raise typer.Exit(1)


def _replay(ledger: Ledger, recipe: Recipe, step: int) -> Iterator[Line]:
    from ..trainer.reporting.replay import replay_stored  # loads torch

    try:
        found = replay_stored(ledger, recipe, step)
    except (ValueError, LedgerError) as error:  # other rows than the record has, or one that cannot be read
        yield Line(step=step, same=False, differences=(str(error),))
        return
    except (LookupError, TypeError, AttributeError) as error:  # JSON of another shape than a step's
        why = f"the record is none of a step any more: {type(error).__name__}: {error}"
        yield Line(step=step, same=False, differences=(why,))
        return
    if not found:
        yield Line(step=step, same=True)
    for update, each in enumerate(found):
        yield Line(
            step=step,
            update=update,
            same=each.is_same,
            stored_loss=each.stored_loss,
            loss=None if each.differences else each.loss,
            differences=each.differences,
        )


def _show(lines: Sequence[Line]) -> None:
    table = Table("step", "update", "stored loss", "replayed loss", "")
    for line in lines:
        update = "none" if line.update is None else str(line.update)
        losses = ("-" if loss is None else f"{loss:+.7f}" for loss in (line.stored_loss, line.loss))
        table.add_row(
            str(line.step), update, *losses, "[green]same[/green]" if line.same else "[red]DIFFERS[/red]"
        )
    console = open_console()
    console.print(table)
    for line in lines:
        for difference in line.differences:
            console.print(f"step {line.step}: {difference}", markup=False, highlight=False)
