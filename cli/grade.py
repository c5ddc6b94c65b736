"""`palaestra grade`: the stored episodes of a run, graded again."""

import asyncio
import dataclasses
import json
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from ..agents.grading.regrade import Regraded, TasksMissing, regrade
from ..agents.ledger import Ledger
from ..envs import TaskSet
from ..trainer.arena import Arena, load_arena
from ..trainer.folder import RECIPE, make_folder
from ..trainer.grading import load_grader, open_grading
from ..trainer.inputs import changed, fingerprints, sources
from ..trainer.recipe import Recipe
from ..trainer.recipe_file import RecipeError, read_recipe
from ..trainer.redaction import redacted
from .console import only_json, open_console, print_json, printable
from .options import Json
from .progress import TerminalProgress
from .run_name import check_name

GRADER = "grader"
"""The fact in the new run file that says who graded, by fields and files."""

_FREE = {
    "attempt_s",
    "callback_port",
    "callback_url",
    "close",
    "close_after_s",
    "heartbeat_s",
    "max_attempts",
    "max_outstanding",
    "poll_s",
    "retry_s",
    "token_env",
    "total_s",
}
"""Fields of `grading` that say how long it may take, not who grades."""


def grade(
    run: Annotated[Path, typer.Argument(help="The folder of a run, such as runs/quickstart.")],
    grader: Annotated[
        str | None, typer.Option(help='A grader as "module:name"; default: the run\'s own, as it is now.')
    ] = None,
    splits: Annotated[
        list[str] | None, typer.Option("--split", help='Such as "final" or "train"; default: all.')
    ] = None,
    name: Annotated[
        str, typer.Option(help="Name of this grading; the same name goes on where it stopped.")
    ] = "regrade",
    as_json: Json = False,
) -> None:
    """Grade stored episodes again, without new rollouts. Only RUN/grade.NAME is written.

    Without --grader the recipe's grading.kind says where: inline, subprocess, sandbox, http, or lambda.
    """
    check_name(name)
    console = open_console(stderr=as_json)
    asked = _Question(run=run, grader=grader, splits=tuple(splits or ()), name=name)
    with only_json(as_json), TerminalProgress(console) as progress:
        try:
            found = asyncio.run(asked.answer(progress))
        except TasksMissing as error:
            raise RecipeError(f"{run}: {error}") from error
    if as_json:
        print_json({split: dataclasses.asdict(each) for split, each in found.items()})
    else:
        _show(console, found)
    if all(each.after.reward is None for each in found.values()):
        raise typer.Exit(1)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Question:
    run: Path
    grader: str | None
    splits: tuple[str, ...]
    name: str

    async def answer(self, progress: TerminalProgress) -> dict[str, Regraded]:
        with ExitStack() as stack:
            if not (self.run / "run.sqlite").is_file():
                raise RecipeError(f"{self.run}: there is no run.sqlite; give the folder of a run")
            source = stack.enter_context(Ledger(self.run, read_only=True))
            recipe = _recipe_of(self.run, source)
            splits = self._splits(source)
            grader = None if self.grader is None else load_grader(self.grader)
            arena = load_arena(recipe)
            folder = self.run / f"grade.{self.name}"
            make_folder(folder)
            target = stack.enter_context(Ledger(folder))
            async with open_grading(recipe, arena, target, folder, grader=grader, is_wanted=True) as grading:
                if grading is None:
                    raise RecipeError(
                        f"{recipe.source.id} has no grader, only step rewards; name a grader by --grader"
                    )
                self._stay_the_same(recipe, arena, target)
                found: dict[str, Regraded] = {}
                for split in splits:
                    progress.phase(split, source.counts(split).total())
                    progress.waiting("grades")
                    found[split] = await regrade(
                        source,
                        target,
                        grading,
                        _tasks(arena),
                        split,
                        reward_range=arena.env.reward_range,
                        on_group=lambda group: progress.advance(len(group.members)),
                    )
                return found

    def _splits(self, source: Ledger) -> list[str]:
        known = source.splits()
        for split in self.splits:
            if split not in known:
                raise RecipeError(f"--split {split}: {self.run} has no such split; it has {', '.join(known)}")
        return list(self.splits) or known

    def _stay_the_same(self, recipe: Recipe, arena: Arena, target: Ledger) -> None:
        """A grading goes on only as what it began as, with the same files."""
        section = None if recipe.grading is None else recipe.grading.model_dump(mode="json", exclude=_FREE)
        fields = {
            "grader": self.grader,
            "grading": section,
            "env": None if recipe.env is None else recipe.env.model_dump(mode="json"),
            "reward": None if recipe.reward is None else recipe.reward.model_dump(mode="json"),
        }
        if self.grader is not None:
            behind = sources([self.grader])
        else:
            command = [] if recipe.grading is None else recipe.grading.command
            behind = sources(command, arena.env, getattr(arena.env, "grader", None))
        files = fingerprints(recipe) | behind
        asked = {"fields": redacted(fields), "files": files}
        before = json.loads(target.meta(GRADER) or "null")
        if before is None:
            target.set_meta(GRADER, json.dumps(asked))
        elif before.get("fields") != json.loads(json.dumps(asked["fields"])):
            raise RecipeError(
                f"--name {self.name}: {target.path} holds the grades of another grader; choose another name"
            )
        elif odd := changed(before["files"], files):
            raise RecipeError(
                f"--name {self.name}: {odd} not what the grades in {target.path} were made with; "
                "choose another name"
            )


def _recipe_of(run: Path, source: Ledger) -> Recipe:
    """The recipe of a training run, or the one that an evaluation keeps in its run file."""
    if (run / "recipe.yaml").exists():
        return read_recipe(run / "recipe.yaml")
    if (stored := source.meta(RECIPE)) is None:
        raise RecipeError(f"{run}: its run file has no recipe; it is no run, or one of an older palaestra")
    return Recipe.model_validate_json(stored)


def _tasks(arena: Arena) -> TaskSet:
    return TaskSet([*arena.train, *arena.held_out])


def _show(console: Console, found: dict[str, Regraded]) -> None:
    table = Table("split", "episodes", "reward before", "reward now", "changed", "outcomes now")
    for split, each in found.items():
        table.add_row(
            printable(split),
            str(each.after.num_episodes),
            str(each.before.reward or "-"),
            str(each.after.reward or "-"),
            str(each.num_changed),
            ", ".join(f"{kind} {count}" for kind, count in sorted(each.after.outcomes.items())),
        )
    console.print(table)
