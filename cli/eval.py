"""`palaestra eval`: a policy on a recipe's held-out tasks."""

import asyncio
import dataclasses
import json
from dataclasses import dataclass
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from ..agents.evaluation import Evaluation
from ..agents.evaluation import evaluate as run_evaluation
from ..agents.grading.stage import Grading
from ..agents.ledger import Ledger
from ..trainer.folder import FILES, QUESTION, RECIPE, make_folder
from ..trainer.grading import open_grading
from ..trainer.inputs import changed, fingerprint, fingerprints
from ..trainer.parts import make_collector
from ..trainer.recipe import Recipe
from ..trainer.recipe_file import RecipeError, load_recipe
from ..trainer.redaction import redacted
from ..trainer.reporting.metrics import troubles
from .console import only_json, open_console, print_json, printable
from .options import ApiKeyEnv, Json, ModelName, RecipePath, Sets, WhoPlays
from .policies import Player, Seat, open_player
from .progress import TerminalProgress
from .run_name import check_name, name_run

QUESTION_FIELDS = {"seed", "env", "data", "reward", "tools", "model", "sampling"}
"""Of a recipe: with another value it is another evaluation."""


def evaluate(
    recipe: RecipePath,
    policy: WhoPlays = "model",
    model_name: ModelName = "",
    api_key_env: ApiKeyEnv = None,
    name: Annotated[
        str, typer.Option(help="Name of this evaluation; the same name goes on where it stopped.")
    ] = "eval",
    samples: Annotated[int, typer.Option(min=1, help="Episodes of each task.")] = 1,
    overrides: Sets = None,
    as_json: Json = False,
) -> None:
    """Evaluate a policy. Every episode is kept in the folder RUNS_DIR/RECIPE.NAME."""
    check_name(name)
    loaded = load_recipe(recipe, overrides or ())
    name_run(f"{loaded.name}.{name}")
    seat = Seat(policy=policy, model_name=model_name, api_key_env=api_key_env)
    console = open_console(stderr=as_json)
    with only_json(as_json), TerminalProgress(console) as progress:
        asked = _Question(recipe=loaded, seat=seat, name=name, samples=samples)
        found, reasons = asyncio.run(asked.answer(progress))
    if as_json:
        print_json({**dataclasses.asdict(found), "troubles": reasons})
    else:
        _show(console, found, reasons)
    if found.reward is None:
        raise typer.Exit(1)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Question:
    recipe: Recipe
    seat: Seat
    name: str
    samples: int

    async def answer(self, progress: TerminalProgress) -> tuple[Evaluation, dict[str, int]]:
        """The evaluation, and why episodes have no number, by reason."""
        folder = self.recipe.runs_dir / f"{self.recipe.name}.{self.name}"
        async with open_player(self.recipe, self.seat, progress) as player:
            make_folder(folder)
            if (folder / "recipe.yaml").exists():
                raise RecipeError(f"--name {self.name}: {folder} holds a training run; choose another name")
            with Ledger(folder) as ledger:
                await self._stay_the_same(ledger, progress)
                async with open_grading(self.recipe, player.arena, ledger, folder) as grading:
                    found = await self._play(player, ledger, grading, progress)
                return found, troubles(ledger.trajectories(self.name))

    async def _play(
        self, player: Player, ledger: Ledger, grading: Grading | None, progress: TerminalProgress
    ) -> Evaluation:
        held_out = player.arena.held_out
        progress.phase(self.name, len(held_out) * self.samples)
        progress.waiting("episodes")
        collector = make_collector(self.recipe, player.rollout, ledger, progress, grading=grading)
        return await run_evaluation(
            collector,
            held_out,
            split=self.name,
            version=player.version,
            samples=self.samples,
            reward_range=player.arena.env.reward_range,
            passing=self.recipe.evaluation.passing,
            on_group=lambda group: progress.advance(len(group.members)),
        )

    async def _stay_the_same(self, ledger: Ledger, progress: TerminalProgress) -> None:
        """An evaluation goes on only as what it began as: the same policy, tasks and sampling."""
        progress.waiting("the model's fingerprint")
        recipe, model = self.recipe, self.seat.model(self.recipe)
        question: dict[str, object] = {
            "seat": dataclasses.asdict(self.seat),
            "recipe": recipe.model_dump(mode="json", include=QUESTION_FIELDS),
            "max_context": recipe.engine.max_context,
            "temperature": recipe.evaluation_sampling.temperature,
            **recipe.evaluation.model_dump(include={"top_p", "max_tokens"}, exclude_defaults=True),
            "model": None if model is None else await asyncio.to_thread(fingerprint, model),
        }
        if recipe.grading is not None:
            question["grading"] = recipe.grading.model_dump(mode="json", include={"kind", "command", "files"})
        files = fingerprints(recipe)
        if (stored := ledger.meta(FILES)) is not None and (odd := changed(json.loads(stored), files)):
            raise RecipeError(
                f"--name {self.name}: {odd} not what {ledger.path} was made with; "
                "bring back what it was, or choose another name"
            )
        asked = json.dumps(redacted(question), sort_keys=True)
        if (before := ledger.meta(QUESTION)) is None:
            ledger.set_meta(QUESTION, asked)
            ledger.set_meta(FILES, json.dumps(files))
            ledger.set_meta(RECIPE, json.dumps(redacted(recipe.model_dump(mode="json"))))
        elif before != asked:
            raise RecipeError(
                f"--name {self.name}: {ledger.path} holds the evaluation of another policy, "
                "or of other tasks or sampling; choose another name"
            )


def _show(console: Console, found: Evaluation, reasons: dict[str, int]) -> None:
    table = Table(title=f"{found.split}: {found.num_tasks} tasks, {found.num_episodes} episodes")
    table.add_column("measure")
    table.add_column("value [95 % interval]")
    table.add_row("reward over graded", str(found.reward or "nothing was graded"))
    for k, rate in found.pass_at.items():
        table.add_row(f"pass@{k}", str(rate))
    for k, rate in found.pass_hat.items():
        if k > 1:  # pass^1 is pass@1
            table.add_row(f"pass^{k}", str(rate))
    if found.bounds is not None:
        low, high = found.bounds
        table.add_row("bounds: no number = floor, = maximum", f"{low:.3f}, {high:.3f}")
    table.add_row("outcomes", ", ".join(f"{kind} {count}" for kind, count in sorted(found.outcomes.items())))
    table.add_row("stops", ", ".join(f"{stop} {count}" for stop, count in sorted(found.stops.items())))
    console.print(table)
    for reason, count in list(reasons.items())[:5]:
        console.print(f"{count} tries without a number: {printable(reason)}", markup=False, highlight=False)
