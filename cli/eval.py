"""`palaestra eval`: a policy on a recipe's held-out tasks."""

import asyncio
import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from ..agents.collector import Collector
from ..agents.evaluation import Evaluation
from ..agents.evaluation import evaluate as run_evaluation
from ..agents.ledger import Ledger
from ..trainer.folder import make_folder
from ..trainer.recipe import Recipe
from ..trainer.recipe_file import RecipeError, load_recipe
from .policies import open_player
from .progress import TerminalProgress


def evaluate(
    recipe: Annotated[Path, typer.Argument(help="A recipe, for its environment, model and engine.")],
    policy: Annotated[
        str, typer.Option(help='"oracle", "model", a model folder, or the URL of a chat endpoint.')
    ] = "model",
    model_name: Annotated[str, typer.Option(help="Model at the chat endpoint.")] = "",
    api_key_env: Annotated[
        str | None, typer.Option(help="Environment variable with the endpoint's key.")
    ] = None,
    name: Annotated[
        str, typer.Option(help="Name of this evaluation; the same name goes on where it stopped.")
    ] = "eval",
    samples: Annotated[int, typer.Option(min=1, help="Episodes of each task.")] = 1,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Override a field: a.b=value.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Evaluate a policy; every episode is kept in the folder runs/NAME-of-the-recipe.NAME."""
    loaded = load_recipe(recipe, overrides or ())
    console = Console(stderr=as_json)
    with TerminalProgress(console) as progress:
        found = asyncio.run(_evaluate(loaded, policy, model_name, api_key_env, name, samples, progress))
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(found)))
    else:
        _show(console, found)


async def _evaluate(
    recipe: Recipe,
    policy: str,
    model_name: str,
    api_key_env: str | None,
    name: str,
    samples: int,
    progress: TerminalProgress,
) -> Evaluation:
    folder = recipe.runs_dir / f"{recipe.name}.{name}"
    make_folder(folder)
    with Ledger(folder) as ledger:
        _same_question(
            ledger, name, {"policy": policy, "model": model_name, "env": recipe.env.model_dump(mode="json")}
        )
        async with open_player(recipe, policy, model_name=model_name, api_key_env=api_key_env) as player:
            progress.phase(name, len(player.arena.held_out) * samples)
            collector = Collector(
                player.rollout,
                ledger,
                max_in_flight=recipe.engine.max_in_flight,
                max_attempts=recipe.grpo.max_attempts,
                on_episode=progress.episode,
            )
            return await run_evaluation(
                collector,
                player.arena.held_out,
                split=name,
                version=player.version,
                samples=samples,
                reward_range=player.arena.env.reward_range,
                on_group=lambda group: progress.advance(len(group.members)),
            )


def _same_question(ledger: Ledger, name: str, question: dict[str, object]) -> None:
    """An evaluation goes on only as what it began as: what it holds is of that policy and those tasks."""
    asked = json.dumps(question, sort_keys=True)
    if (before := ledger.meta("question")) is None:
        ledger.set_meta("question", asked)
    elif before != asked:
        raise RecipeError(
            f"--name {name}: holds the evaluation of something else ({before}); choose another name"
        )


def _show(console: Console, found: Evaluation) -> None:
    table = Table(title=f"{found.split}: {found.num_tasks} tasks, {found.num_episodes} episodes")
    table.add_column("measure")
    table.add_column("value [95 % interval]")
    table.add_row("reward over graded", str(found.reward or "nothing was graded"))
    for k, rate in found.pass_at.items():
        table.add_row(f"pass@{k}", str(rate))
    for k, rate in list(found.pass_hat.items())[1:]:
        table.add_row(f"pass^{k}", str(rate))
    if found.bounds is not None:
        low, high = found.bounds
        table.add_row("bounds: no number = floor, = maximum", f"{low:.3f}, {high:.3f}")
    table.add_row("outcomes", ", ".join(f"{kind} {count}" for kind, count in sorted(found.outcomes.items())))
    table.add_row("stops", ", ".join(f"{stop} {count}" for stop, count in sorted(found.stops.items())))
    console.print(table)
