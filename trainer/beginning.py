"""What reinforcement learning starts from: a model, the oracle's demonstrations, a supervised start.

Each part is in the run's folder when it is done, and is not made again.
"""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..agents.collector import GroupRequest
from ..agents.engine import PolicyVersion
from ..agents.evaluation import is_solved
from ..agents.grading.stage import Grading
from ..agents.ledger import Ledger
from ..agents.trajectory import Trajectory
from .arena import Arena
from .batches.rows import Row
from .folder import make_whole
from .inputs import changed
from .interrupt import Interrupt
from .parts import learner_config, load_renderer, make_collector, make_plain_rollout
from .ranks.leader import open_learner
from .ranks.processes import Ranks
from .recipe import Recipe, WarmStartSection
from .recipe_file import RecipeError
from .reporting.progress import Progress
from .supervised import SupervisedStage, forget_checkpoints, stage_folder
from .warm_start import demonstrate, oracle_texts
from .weights.lineage import find_origin, read_lineage, start_files, write_start
from .weights.tiny import make_tiny_model

START = PolicyVersion(0)
"""The policy that reinforcement learning starts from."""

START_FILES = "start"
"""The fact in a run file that says what was in `start/` when it was made."""

WARM = "warm-start"
"""The folder of what a supervised start came to."""

TOKENIZER_TEXTS = 512
"""Demonstrations that a tiny model's tokenizer is trained on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Beginning:
    """Of one run."""

    recipe: Recipe
    arena: Arena
    progress: Progress
    ledger: Ledger
    grading: Grading | None
    interrupt: Interrupt
    ranks: Ranks | None
    device: str
    """Where this process trains."""

    async def model(self) -> Path:
        """The folder of the model before any training."""
        if self.recipe.model.path is not None:
            return self.recipe.model.path
        if self.recipe.model.start is not None:
            return await self._start(self.recipe.model.start)
        tiny, folder = self.recipe.model.tiny, self.recipe.folder / "model"
        assert tiny is not None, "load_recipe checked it"
        if not folder.exists():
            texts = oracle_texts(self.recipe, await self._demonstrations(TOKENIZER_TEXTS))
            make_whole(folder, lambda partial: make_tiny_model(tiny, partial, texts, seed=self.recipe.seed))
        return folder

    async def _start(self, path: Path) -> Path:
        """The folder of the model that another run, or a part of it, makes."""
        folder = self.recipe.folder / "start"
        if folder.exists():
            self._keep_start(folder, await asyncio.to_thread(start_files, folder))
        else:
            origin = find_origin(path)

            def fill(partial: Path) -> None:
                write_start(origin, partial)
                files = start_files(partial)  # kept before it has its name: never without
                if self._has_trained:
                    self._keep_start(folder, files)
                else:  # what an earlier start of the run was killed over, nothing was trained on
                    self.ledger.set_meta(START_FILES, json.dumps(files))

            self.progress.waiting(f"the weights of {origin.folder}")
            make_whole(folder, fill)
            self.progress.note(f"starting from the {origin.kind} {origin.folder}")
        self.ledger.set_meta("lineage", json.dumps(read_lineage(self.recipe.folder)))
        return folder

    @property
    def _has_trained(self) -> bool:
        return bool(self.ledger.step_numbers()) or self.is_warm or stage_folder(self.recipe).exists()

    def _keep_start(self, folder: Path, files: Mapping[str, str]) -> None:
        """The run file remembers what the run started from. Raises `RecipeError` where that changed."""
        now = {f"{folder / name}": digest for name, digest in files.items()}
        stored = self.ledger.meta(START_FILES)
        if stored is None:  # it is new, or began before there was such a fact
            self.ledger.set_meta(START_FILES, json.dumps(files))
            return
        before = {f"{folder / name}": digest for name, digest in json.loads(stored).items()}
        if odd := changed(before, now):
            raise RecipeError(
                f"{odd} not what {self.recipe.folder} was started with; bring back what it was, "
                "or start a new run by --set name=..."
            )

    @property
    def is_warm(self) -> bool:
        """Whether the supervised start is over."""
        return (self.recipe.folder / WARM).exists()

    async def warm_start(self, model: Path, section: WarmStartSection) -> Path:
        """The folder of the model after its supervised start."""
        folder = self.recipe.folder / WARM
        if self.is_warm:
            forget_checkpoints(self.recipe)
            return folder
        renderer = load_renderer(self.recipe, model)
        demonstrations = await self._demonstrations(section.demonstrations)
        rows = [demonstrate(each.key, each.episode, renderer) for each in demonstrations]
        learner = open_learner(
            model,
            learner_config(self.recipe, section.optimizer, section.steps, model=model, lora=section.lora),
            self.ranks,
            device=self.device,
        )
        stage = SupervisedStage(
            recipe=self.recipe,
            section=section,
            learner=learner,
            demonstrations=rows,
            progress=self.progress,
            interrupt=self.interrupt,
        )
        await stage.run()
        make_whole(folder, learner.export_merged)
        forget_checkpoints(self.recipe)
        return folder

    async def _demonstrations(self, number: int) -> list[Trajectory]:
        """The oracle's play of the first training tasks, as far as it earned the maximum."""
        tasks = self.arena.train[:number]
        requests = [
            GroupRequest(split="demonstrations", epoch=0, task=task, num_samples=1, version=START)
            for task in tasks
        ]
        self.progress.phase("demonstrations", len(tasks))
        self.progress.waiting("episodes")
        rollout = make_plain_rollout(self.recipe, self.arena, self.arena.env.oracle)
        collector = make_collector(
            self.recipe, rollout, self.ledger, self.progress, self._count, grading=self.grading
        )
        groups = await self.interrupt.during(collector.collect(requests))
        played = [member for group in groups for member in group.members]
        maximum = self.arena.env.reward_range[1]
        solved = [each for each in played if each.reward is not None and is_solved(each.reward, maximum)]
        if not solved:
            raise RecipeError(
                f"{self.recipe.source_field}: the oracle of {self.recipe.source.id!r} solved none of "
                f"{len(played)} tasks: nothing to learn from; the first ended as {played[0].outcome}. "
                "palaestra play looks closer"
            )
        return solved

    def _count(self, trajectory: Trajectory) -> None:
        self.progress.advance()
        self.progress.episode(trajectory)

    async def imitated(self, model: Path) -> list[Row]:
        """Demonstrations that go into every update, if the recipe wants some."""
        if not self.recipe.grpo.sft_coefficient:
            return []
        renderer = load_renderer(self.recipe, model)
        found = await self._demonstrations(self.recipe.grpo.sft_demonstrations)
        return [demonstrate(each.key, each.episode, renderer) for each in found]
