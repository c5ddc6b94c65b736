"""A whole run: model, baseline, warm start, reinforcement learning, final evaluation.

runs/<name>/
    recipe.yaml     the resolved recipe            checkpoints/   to go on from
    run.sqlite      every episode and step         policy/        what came out
    metrics.jsonl   one line a step                summary.json   how good it is
    model/ warm-start/   what training started from
"""

import asyncio
import os
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from ..agents.collector import Collector
from ..agents.engine import Engine, PolicyVersion
from ..agents.evaluation import evaluate
from ..agents.ledger import Ledger
from ..agents.trajectory import Group, Trajectory
from .checkpoint import Checkpoints
from .folder import make_whole, open_folder
from .interrupt import Interrupt, Interrupted
from .learner import Learner
from .loop import Trainer
from .metrics import MetricsFile
from .model import load_model
from .parts import (
    Arena,
    learner_config,
    load_arena,
    load_renderer,
    make_rollout,
    open_engine,
    open_local_engine,
)
from .progress import Progress
from .publisher import Publisher
from .recipe import Recipe
from .summary import Summary, summarize_run
from .tiny import make_tiny_model
from .update import Updater
from .warm_start import demonstrate, warm_start

START = PolicyVersion(0)
"""The policy that reinforcement learning starts from."""


async def train(recipe: Recipe, progress: Progress, *, resume: bool = False) -> Summary:
    """Run a recipe to its end. Raises `Interrupted` after a signal, when everything is on disk."""
    torch.set_num_threads(recipe.threads or os.cpu_count() or 1)
    torch.use_deterministic_algorithms(recipe.deterministic)
    arena = load_arena(recipe)
    open_folder(recipe, resume=resume)
    with ExitStack() as stack:
        run = _Run(
            recipe=recipe,
            arena=arena,
            progress=progress,
            ledger=stack.enter_context(Ledger(recipe.folder)),
            interrupt=stack.enter_context(Interrupt()),
        )
        with run.counting_seconds():
            return await run.to_the_end()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Run:
    recipe: Recipe
    arena: Arena
    progress: Progress
    ledger: Ledger
    interrupt: Interrupt

    async def to_the_end(self) -> Summary:
        """Every stage in order; a stage that an earlier start finished costs nothing."""
        model = await self._model()
        if self.recipe.warm_start is not None:
            async with open_local_engine(self.recipe, model) as engine:
                await self._evaluate("baseline", engine, model, START)
            model = await self._warm_start(model)
        async with open_engine(self.recipe, model) as engine:
            await self._evaluate("warm-start" if self.recipe.warm_start else "baseline", engine, model, START)
            await self._learn(engine, model)
            await self._evaluate("final", engine, model, PolicyVersion(self.recipe.grpo.steps))
        summary = summarize_run(self.recipe, self.arena.env.reward_range, self.ledger)
        summary.write(self.recipe.folder / "summary.json")
        return summary

    async def _model(self) -> Path:
        """The folder of the untrained model."""
        if self.recipe.model.path is not None:
            return self.recipe.model.path
        tiny, folder = self.recipe.model.tiny, self.recipe.folder / "model"
        assert tiny is not None, "load_recipe checked it"
        if not folder.exists():
            self.progress.waiting("model")
            texts = await self.interrupt.during(self._demonstration_texts())
            make_whole(folder, lambda partial: make_tiny_model(tiny, partial, texts, seed=self.recipe.seed))
        return folder

    async def _warm_start(self, model: Path) -> Path:
        """The folder of the model after its supervised start."""
        folder, section = self.recipe.folder / "warm-start", self.recipe.warm_start
        assert section is not None
        if folder.exists():
            return folder
        self.progress.phase("demonstrations", section.demonstrations)
        rows = await self.interrupt.during(self._demonstrations(model))
        learner = Learner(load_model(model), learner_config(self.recipe, section.optimizer, section.steps))
        self.progress.phase("warm start", section.steps)
        for loss in warm_start(learner, rows, section, seed=self.recipe.seed):
            await asyncio.sleep(0)
            self.progress.advance()
            self.interrupt.check()
        make_whole(folder, learner.export_merged)
        return folder

    async def _learn(self, engine: Engine, model: Path) -> None:
        """Every step that is still to do. A signal leaves a checkpoint behind."""
        section, every = self.recipe.grpo, self.recipe.evaluation.every
        trainer = self._trainer(engine, model)
        await trainer.restore()
        self.progress.phase("grpo", section.steps)
        self.progress.advance(trainer.num_steps)
        try:
            while trainer.num_steps < section.steps:
                await trainer.step()
                self.progress.advance()
                self.interrupt.check()
                if every and trainer.num_steps % every == 0 and trainer.num_steps < section.steps:
                    version = PolicyVersion(trainer.num_steps)
                    await self._evaluate(f"step-{trainer.num_steps:06d}", engine, model, version)
                    self.progress.phase("grpo", section.steps)
                    self.progress.advance(trainer.num_steps)
        except Interrupted:
            await trainer.checkpoint()
            raise
        await trainer.checkpoint()
        make_whole(self.recipe.folder / "policy", trainer.updater.learner.save)

    def _trainer(self, engine: Engine, model: Path) -> Trainer:
        recipe, grpo = self.recipe, self.recipe.grpo
        num_updates = grpo.steps * grpo.updates_per_step
        config = learner_config(recipe, recipe.optimizer, num_updates, lora=recipe.lora)
        learner = Learner(load_model(model), config)
        renderer = load_renderer(recipe, model)
        remote = recipe.engine.kind != "local"
        probes = [renderer.opening(task.messages, task.tools) for task in self.arena.train[:4]]
        return Trainer(
            recipe=recipe,
            tasks=self.arena.train,
            max_reward=self.arena.env.reward_range[1],
            collector=self._collector(engine, model, recipe.sampling.temperature),
            updater=Updater(learner=learner, section=grpo),
            publisher=Publisher(
                learner,
                engine,
                adapters=recipe.folder / "adapters" if remote else None,
                probes=probes if remote else (),
                bound=recipe.engine.canary_bound,
            ),
            ledger=self.ledger,
            checkpoints=Checkpoints(recipe.folder / "checkpoints", keep=recipe.checkpoint.keep),
            metrics=MetricsFile(recipe.folder / "metrics.jsonl"),
            interrupt=self.interrupt,
            progress=self.progress,
        )

    def _collector(self, engine: Engine, model: Path, temperature: float) -> Collector:
        rollout = make_rollout(
            self.recipe, self.arena, engine, load_renderer(self.recipe, model), temperature
        )
        return Collector(
            rollout,
            self.ledger,
            max_in_flight=self.recipe.engine.max_in_flight,
            max_attempts=self.recipe.grpo.max_attempts,
            on_episode=self.progress.episode,
        )

    async def _evaluate(self, split: str, engine: Engine, model: Path, version: PolicyVersion) -> None:
        """Play the held-out tasks; the result is in the ledger."""
        section, tasks = self.recipe.evaluation, self.arena.held_out
        temperature = self.recipe.sampling.temperature if section.temperature is None else section.temperature
        self.progress.phase(split, len(tasks) * section.samples)
        self.progress.waiting("episodes")
        found = await self.interrupt.during(
            evaluate(
                self._collector(engine, model, temperature),
                tasks,
                split=split,
                version=version,
                samples=section.samples,
                reward_range=self.arena.env.reward_range,
                on_group=lambda group: self.progress.advance(len(group.members)),
            )
        )
        self.progress.note(f"{split}: pass@1 {found.pass_at.get(1, 'has no graded episode')}")
