"""A whole run: model, baseline, warm start, reinforcement learning, final evaluation.

runs/<name>/
    recipe.yaml     the resolved recipe            checkpoints/   to go on from
    run.sqlite      every episode and step         policy/        what came out
    metrics.jsonl   one line a step                summary.json   how good it is
    model/ start/ warm-start/   what training started from; start/lineage.json: whose weights they were
"""

import asyncio
import json
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from pathlib import Path

from ..agents.collector import Collector, GroupRequest
from ..agents.engine import Engine, PolicyVersion
from ..agents.evaluation import Evaluation, evaluate, is_solved
from ..agents.grading.stage import Grading
from ..agents.ledger import Ledger
from ..agents.trajectory import Trajectory
from ._torch import use_processor
from .arena import Arena
from .checkpoint import Checkpoints
from .errors import NothingGraded
from .folder import check_folder, make_folder, make_whole, open_folder
from .grading import open_grading
from .inputs import fingerprint
from .interrupt import Interrupt, Interrupted
from .leader import leading, open_learner
from .lineage import find_origin, read_lineage, write_start
from .lint import lint
from .loop import Trainer
from .metrics import MetricsFile
from .parts import (
    learner_config,
    load_renderer,
    make_collector,
    make_plain_rollout,
    make_rollout,
    open_engine,
    open_local_engine,
    open_trackers,
    training_device,
)
from .preflight import preflight
from .progress import Progress
from .publisher import Publisher
from .ranks import Ranks
from .recipe import Recipe, WarmStartSection
from .recipe_file import RecipeError
from .rows import Row
from .summary import Summary, counting_seconds, summarize_run
from .tiny import make_tiny_model
from .trackers.several import Trackers
from .update import Updater
from .warm_start import demonstrate, oracle_texts, warm_start

START = PolicyVersion(0)
"""The policy that reinforcement learning starts from."""

TOKENIZER_TEXTS = 512
"""Demonstrations that a tiny model's tokenizer is trained on."""


async def train(
    recipe: Recipe,
    progress: Progress,
    *,
    resume: bool = False,
    wrap_engine: Callable[[Engine], Engine] = lambda engine: engine,
) -> Summary:
    """Run a recipe to its end. Raises `Interrupted` after a signal, when everything is on disk, and what
    `errors.py` names.

    `wrap_engine` may put something around the recipe's engine, such as a `FaultyEngine`.
    """
    use_processor(recipe.threads, deterministic=recipe.deterministic)
    device = training_device(recipe)
    async with aclosing(await preflight(recipe)) as arena:
        check_folder(recipe, resume=resume)
        make_folder(recipe.folder)
        progress.waiting("the model's fingerprint")
        path = recipe.model.path
        model = None if path is None else await asyncio.to_thread(fingerprint, path)
        with Ledger(recipe.folder) as ledger:
            open_folder(recipe, ledger, model, resume=resume)
            for advice in lint(recipe, arena):  # now that nothing refuses it any more
                progress.note(f"look again: {advice}")
            progress.note(f"training on {device}")
            with counting_seconds(ledger), Interrupt() as interrupt, leading(recipe.model.device) as ranks:
                async with (
                    open_trackers(recipe, progress) as trackers,
                    open_grading(recipe, arena, ledger, recipe.folder) as grading,
                ):
                    await _Run(
                        recipe=recipe,
                        arena=arena,
                        progress=progress,
                        ledger=ledger,
                        grading=grading,
                        trackers=trackers,
                        interrupt=interrupt,
                        ranks=ranks,
                        device=device,
                        wrap_engine=wrap_engine,
                    ).to_the_end()
            summary = summarize_run(recipe, arena.env.reward_range, ledger)
    summary.write(recipe.folder / "summary.json")
    return summary


@dataclass(frozen=True, kw_only=True, slots=True)
class _Run:
    recipe: Recipe
    arena: Arena
    progress: Progress
    ledger: Ledger
    grading: Grading | None
    trackers: Trackers
    interrupt: Interrupt
    ranks: Ranks | None
    device: str
    wrap_engine: Callable[[Engine], Engine]

    async def to_the_end(self) -> None:
        """Every stage in order; a stage that an earlier start finished costs nothing."""
        model = await self._model()
        if self.recipe.warm_start is not None:
            async with open_local_engine(self.recipe, model) as engine:
                await self._evaluate("baseline", engine, model, START)
            model = await self._warm_start(model, self.recipe.warm_start)
        async with AsyncExitStack() as stack:
            starting = stack.enter_async_context(open_engine(self.recipe, model, self.progress))
            engine = self.wrap_engine(await self.interrupt.during(starting))
            await self._evaluate("warm-start" if self.recipe.warm_start else "baseline", engine, model, START)
            await self._learn(engine, model)
            await self._evaluate("final", engine, model, PolicyVersion(self.recipe.grpo.steps))

    async def _model(self) -> Path:
        """The folder of the model before any training."""
        if self.recipe.model.path is not None:
            return self.recipe.model.path
        if self.recipe.model.start is not None:
            return self._start(self.recipe.model.start)
        tiny, folder = self.recipe.model.tiny, self.recipe.folder / "model"
        assert tiny is not None, "load_recipe checked it"
        if not folder.exists():
            texts = oracle_texts(self.recipe, await self._demonstrations(TOKENIZER_TEXTS))
            make_whole(folder, lambda partial: make_tiny_model(tiny, partial, texts, seed=self.recipe.seed))
        return folder

    def _start(self, path: Path) -> Path:
        """The folder of the model that another run, or a part of it, makes."""
        folder = self.recipe.folder / "start"
        if not folder.exists():
            origin = find_origin(path)
            self.progress.waiting(f"the weights of {origin.folder}")
            make_whole(folder, lambda partial: write_start(origin, partial))
            self.progress.note(f"starting from the {origin.kind} {origin.folder}")
        self.ledger.set_meta("lineage", json.dumps(read_lineage(self.recipe.folder)))
        return folder

    async def _warm_start(self, model: Path, section: WarmStartSection) -> Path:
        """The folder of the model after its supervised start."""
        folder = self.recipe.folder / "warm-start"
        if folder.exists():
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
        self.progress.phase("warm start", section.steps)
        self.progress.waiting("learner")

        def on_skip(step: int) -> None:
            self.progress.note(f"warm start, step {step}: a gradient was not finite, its update is left out")

        for _ in warm_start(learner, rows, section, seed=self.recipe.seed, on_skip=on_skip):
            self.progress.advance()
            await asyncio.sleep(0)
            self.interrupt.check()
        make_whole(folder, learner.export_merged)
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

    async def _learn(self, engine: Engine, model: Path) -> None:
        """Every step that is still to do. A signal leaves a checkpoint behind."""
        section, every = self.recipe.grpo, self.recipe.evaluation.every
        trainer = self._trainer(engine, model, await self._imitated(model))
        await trainer.restore()
        if not trainer.num_steps:
            await trainer.publisher.expect_start()
        self._show_steps(trainer)
        try:
            while trainer.num_steps < section.steps:
                # Before the next step, not after the last: a restart finishes what it finds unfinished.
                if every and trainer.num_steps and trainer.num_steps % every == 0:
                    version = PolicyVersion(trainer.num_steps)
                    found = await self._evaluate(f"step-{version:06d}", engine, model, version)
                    if self.recipe.checkpoint.keep_best and found.reward is not None:
                        await trainer.checkpoint()
                        trainer.checkpoints.rate(version, found.reward.value)
                    self._show_steps(trainer)
                await trainer.step()
                self.progress.advance()
                self.interrupt.check()
        except (Interrupted, NothingGraded):
            await trainer.checkpoint()
            raise
        await trainer.checkpoint()
        make_whole(self.recipe.folder / "policy", trainer.updater.learner.save)

    def _show_steps(self, trainer: Trainer) -> None:
        self.progress.phase("grpo", self.recipe.grpo.steps)
        self.progress.advance(trainer.num_steps)

    async def _imitated(self, model: Path) -> list[Row]:
        """Demonstrations that go into every update, if the recipe wants some."""
        if not self.recipe.grpo.sft_coefficient:
            return []
        renderer = load_renderer(self.recipe, model)
        found = await self._demonstrations(self.recipe.grpo.sft_demonstrations)
        return [demonstrate(each.key, each.episode, renderer) for each in found]

    def _trainer(self, engine: Engine, model: Path, demonstrations: Sequence[Row]) -> Trainer:
        recipe, grpo = self.recipe, self.recipe.grpo
        num_updates = grpo.steps * grpo.updates_per_step or recipe.optimizer.warmup_steps + 1
        config = learner_config(recipe, recipe.optimizer, num_updates, model=model, lora=recipe.lora)
        learner = open_learner(model, config, self.ranks, device=self.device)
        renderer = load_renderer(recipe, model)
        remote = recipe.engine.kind != "local"
        probes = [renderer.opening(task.messages, task.tools) for task in self.arena.train[:4]]
        return Trainer(
            recipe=recipe,
            tasks=self.arena.train,
            max_reward=self.arena.env.reward_range[1],
            min_reward=self.arena.env.reward_range[0],
            collector=self._player(engine, model, recipe.sampling.temperature),
            updater=Updater(learner=learner, section=grpo, demonstrations=demonstrations, seed=recipe.seed),
            publisher=Publisher(
                learner,
                engine,
                adapters=recipe.folder / "adapters" if remote else None,
                probes=probes if remote else (),
                bound=recipe.engine.canary_bound,
            ),
            ledger=self.ledger,
            checkpoints=Checkpoints(
                recipe.folder / "checkpoints",
                keep=recipe.checkpoint.keep,
                keep_best=recipe.checkpoint.keep_best,
            ),
            metrics=MetricsFile(recipe.folder / "metrics.jsonl"),
            trackers=self.trackers,
            interrupt=self.interrupt,
            progress=self.progress,
        )

    def _player(self, engine: Engine, model: Path, temperature: float) -> Collector:
        renderer = load_renderer(self.recipe, model)
        rollout = make_rollout(self.recipe, self.arena, engine, renderer, temperature)
        return make_collector(self.recipe, rollout, self.ledger, self.progress, grading=self.grading)

    async def _evaluate(self, split: str, engine: Engine, model: Path, version: PolicyVersion) -> Evaluation:
        """Play the held-out tasks; the result is in the ledger."""
        section, tasks = self.recipe.evaluation, self.arena.held_out
        self.progress.phase(split, len(tasks) * section.samples)
        self.progress.waiting("episodes")
        found = await self.interrupt.during(
            evaluate(
                self._player(engine, model, self.recipe.evaluation_temperature),
                tasks,
                split=split,
                version=version,
                samples=section.samples,
                reward_range=self.arena.env.reward_range,
                on_group=lambda group: self.progress.advance(len(group.members)),
            )
        )
        self.progress.note(f"{split}: pass@1 {found.pass_at.get(1, 'has no graded episode')}")
        return found
