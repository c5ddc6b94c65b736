"""The supervised stage of a run, whose every step counts: killed, it goes on from its last checkpoint.

runs/<name>/sft/   metrics.jsonl, steps.csv, tensorboard/   numbers of its steps, as the run's own are kept
                   checkpoints/                             until runs/<name>/warm-start is there
"""

import asyncio
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .batches.rows import Row
from .folder import make_folder
from .interrupt import Interrupt, Interrupted
from .parts import open_trackers
from .ranks.leader import AnyLearner
from .recipe import Recipe, WarmStartSection
from .reporting.metrics import MetricsFile
from .reporting.progress import Progress
from .warm_start import warm_start
from .weights.checkpoint import Checkpoints

PHASE = "sft"
"""Its folder in the run's, and what trackers call it after the run's name."""

Done = list[dict[str, float]]
"""The numbers of the steps that the learner's weights have behind them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SupervisedStage:
    """Trains on demonstrations to the end of the recipe's section."""

    recipe: Recipe
    section: WarmStartSection
    learner: AnyLearner
    """As it was before the first step."""
    demonstrations: Sequence[Row]
    progress: Progress
    interrupt: Interrupt

    async def run(self) -> None:
        """Every step that is still to do. A signal leaves a checkpoint behind."""
        make_folder(stage_folder(self.recipe))
        done = await asyncio.to_thread(self._restore)
        self.progress.phase("warm start", self.section.steps)
        self.progress.advance(len(done))
        metrics = MetricsFile(stage_folder(self.recipe) / "metrics.jsonl")
        metrics.rewrite(done)
        async with open_trackers(self.recipe, self.progress, phase=PHASE) as trackers:
            await trackers.resume(done)
            self.progress.waiting("learner")
            steps = warm_start(
                self.learner, self.demonstrations, self.section, seed=self.recipe.seed, done=tuple(done)
            )
            try:
                for row in steps:
                    done.append(row)
                    metrics.write(row)
                    await trackers.log(len(done), row)
                    await self._show(done)
                    self.interrupt.check()
            except Interrupted:
                await self._keep(done)
                raise
        await self._keep(done)

    async def _show(self, done: Done) -> None:
        row = done[-1]
        self.progress.advance()
        if row["skipped"]:
            self.progress.note(
                f"warm start, step {len(done)}: a gradient was not finite, its update is left out"
            )
        if len(done) % self.recipe.checkpoint.every == 0:
            self.progress.step(row)
            await self._keep(done)
            self.progress.waiting("learner")
        await asyncio.sleep(0)  # a signal is heard

    async def _keep(self, done: Done) -> None:
        if len(done) not in self._checkpoints.steps():
            self.progress.waiting("checkpoint")
            await asyncio.to_thread(self._checkpoints.save, len(done), self.learner, {"done": done})

    def _restore(self) -> Done:
        """Bring the learner to the newest good checkpoint, if there is one."""
        step = self._checkpoints.restore(self.learner)
        if not step:
            return []
        self.progress.note(f"warm start: going on after step {step}")
        return list(self._checkpoints.state(step)["done"])

    @property
    def _checkpoints(self) -> Checkpoints:
        return Checkpoints(stage_folder(self.recipe) / "checkpoints", keep=self.recipe.checkpoint.keep)


def stage_folder(recipe: Recipe) -> Path:
    return recipe.folder / PHASE


def forget_checkpoints(recipe: Recipe) -> None:
    """What came out is on disk: nobody goes on from them any more."""
    shutil.rmtree(stage_folder(recipe) / "checkpoints", ignore_errors=True)
