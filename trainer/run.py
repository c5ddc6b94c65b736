"""A whole run: model, baseline, warm start, reinforcement learning, final evaluation.

runs/<name>/
    recipe.yaml     the resolved recipe            checkpoints/   to go on from
    run.sqlite      every episode and step         policy/        what came out
    metrics.jsonl   one line a step                summary.json   how good it is
    model/ start/ warm-start/   what training started from; start/lineage.json: whose weights they were
    sft/            the steps of the warm start, as the run's own are kept (`supervised.py`)
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from ..agents.collector import Collector
from ..agents.engine import Engine, PolicyVersion, Sampling
from ..agents.evaluation import Evaluation, evaluate
from ..agents.grading.stage import Grading
from ..agents.ledger import Ledger
from ._torch import use_processor
from .arena import Arena
from .batches.rows import Row
from .beginning import START, Beginning
from .early_stopping import STOPPED, Scores
from .errors import NothingGraded
from .folder import check_folder, make_folder, make_whole, open_folder, run_id
from .grading import open_grading
from .inputs import fingerprint
from .interrupt import Interrupt, Interrupted
from .lint import lint
from .loop import Trainer
from .parts import (
    learner_config,
    load_renderer,
    make_collector,
    make_rollout,
    open_engine,
    open_local_engine,
    open_trackers,
    training_device,
)
from .preflight import preflight
from .prompts import check_prompts, probe_prompts
from .publisher import Publisher, drift_bound
from .ranks.leader import AnyLearner, leading, open_learner
from .ranks.processes import Ranks
from .recipe import Recipe
from .recipe_file import settle
from .reporting.flops import peak_of
from .reporting.metrics import MetricsFile
from .reporting.progress import Progress
from .reporting.summary import Summary, counting_seconds, summarize_run
from .trackers.several import Trackers
from .update import Updater
from .weights.checkpoint import Checkpoints


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
        settled = settle(recipe, len(arena.train))
        make_folder(recipe.folder)
        progress.waiting("the model's fingerprint")
        model = await _fingerprint(recipe.model.path)
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
                        recipe=settled,
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


async def _fingerprint(model: Path | None) -> dict[str, str] | None:
    return None if model is None else await asyncio.to_thread(fingerprint, model)


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
        beginning = self._beginning()
        model = await beginning.model()
        if self.recipe.model.path is None:  # else it is done
            check_prompts(self.recipe, self.arena, model)
        if self.recipe.warm_start is not None:
            if self.recipe.evaluation.at_start and not beginning.is_warm:
                async with self._opened_early(model) as engine:
                    await self._evaluate("baseline", engine, model, START)
            model = await beginning.warm_start(model, self.recipe.warm_start)
        async with self._opened(model) as opened:
            engine = self.wrap_engine(opened)
            first = "warm-start" if self.recipe.warm_start else "baseline"
            if self.recipe.evaluation.at_start:
                self._keep_score(START, await self._evaluate(first, engine, model, START))
            last = await self._learn(engine, model, await beginning.imitated(model))
            await self._evaluate("final", engine, model, last)

    @asynccontextmanager
    async def _opened(self, model: Path) -> AsyncGenerator[Engine, None]:
        """The recipe's engine; a signal calls its start off."""
        async with AsyncExitStack() as stack:
            starting = stack.enter_async_context(open_engine(self.recipe, model, self.progress))
            yield await self.interrupt.during(starting)

    def _opened_early(self, model: Path) -> AbstractAsyncContextManager[Engine]:
        """For the evaluation before a warm start; that of a tiny model is over before a server is up."""
        if self.recipe.model.tiny is not None:
            return open_local_engine(self.recipe, model)
        return self._opened(model)

    def _beginning(self) -> Beginning:
        return Beginning(
            recipe=self.recipe,
            arena=self.arena,
            progress=self.progress,
            ledger=self.ledger,
            grading=self.grading,
            interrupt=self.interrupt,
            ranks=self.ranks,
            device=self.device,
        )

    async def _learn(self, engine: Engine, model: Path, demonstrations: Sequence[Row]) -> PolicyVersion:
        """Every step that is still to do; the policy after the last. A signal leaves a checkpoint behind."""
        trainer = self._trainer(engine, model, demonstrations)
        await trainer.restore()
        if not trainer.num_steps:
            await trainer.publisher.expect_start()
        self._show_steps(trainer)
        try:
            # Evaluated before the next step, not after the last: a restart finishes what it finds unfinished.
            while trainer.num_steps < self.recipe.grpo.steps:
                if await self._is_enough(trainer, engine, model):
                    break
                await trainer.step()
                self.progress.advance()
                self.interrupt.check()
        except (Interrupted, NothingGraded):
            await trainer.checkpoint()
            raise
        await trainer.checkpoint()
        make_whole(self.recipe.folder / "policy", trainer.updater.learner.save)
        return PolicyVersion(trainer.num_steps)

    async def _is_enough(self, trainer: Trainer, engine: Engine, model: Path) -> bool:
        """Evaluate where it is time to, and say whether there is nothing more to be had."""
        section, steps = self.recipe.evaluation, trainer.num_steps
        if section.every is None or not steps or steps % section.every:
            return False
        version = PolicyVersion(steps)
        found = await self._evaluate(f"step-{version:06d}", engine, model, version)
        self._keep_score(version, found)
        if self.recipe.checkpoint.keep_best and found.reward is not None:
            await trainer.checkpoint()
            trainer.checkpoints.rate(version, found.reward.value)
        self._show_steps(trainer)
        stall = None if section.early_stopping is None else self._scores.stall(steps, section.early_stopping)
        if stall is not None:
            self.ledger.set_meta(STOPPED, str(stall))
            self.progress.note(str(stall))
        return stall is not None

    def _keep_score(self, version: PolicyVersion, found: Evaluation) -> None:
        if found.reward is not None:  # one without a number says nothing
            self._scores.add(version, found.reward.value)

    @property
    def _scores(self) -> Scores:
        return Scores(self.ledger)

    def _show_steps(self, trainer: Trainer) -> None:
        self.progress.phase("grpo", self.recipe.grpo.steps)
        self.progress.advance(trainer.num_steps)

    def _trainer(self, engine: Engine, model: Path, demonstrations: Sequence[Row]) -> Trainer:
        recipe, grpo = self.recipe, self.recipe.grpo
        num_updates = grpo.steps * grpo.updates_per_step or recipe.optimizer.warmup_steps + 1
        config = learner_config(recipe, recipe.optimizer, num_updates, model=model, lora=recipe.lora)
        learner = open_learner(model, config, self.ranks, device=self.device)
        updater = Updater(
            learner=learner,
            section=grpo,
            demonstrations=demonstrations,
            seed=recipe.seed,
            peak_flops=self._peak(learner, config.dtype),
        )
        return Trainer(
            recipe=recipe,
            tasks=self.arena.train,
            max_reward=self.arena.env.reward_range[1],
            min_reward=self.arena.env.reward_range[0],
            collector=self._player(engine, model, recipe.training_sampling),
            updater=updater,
            publisher=self._publisher(learner, engine, model),
            ledger=self.ledger,
            checkpoints=Checkpoints(
                recipe.folder / "checkpoints",
                keep=recipe.checkpoint.keep,
                keep_best=recipe.checkpoint.keep_best,
                run=run_id(self.ledger),
            ),
            metrics=MetricsFile(recipe.folder / "metrics.jsonl"),
            trackers=self.trackers,
            interrupt=self.interrupt,
            progress=self.progress,
        )

    def _publisher(self, learner: AnyLearner, engine: Engine, model: Path) -> Publisher:
        """The canary asks an engine in another process; one in this one shares our arithmetic."""
        if self.recipe.engine.kind == "local":
            return Publisher(learner, engine, adapters=None, bound=drift_bound(self.recipe))
        renderer = load_renderer(self.recipe, model)
        return Publisher(
            learner,
            engine,
            adapters=self.recipe.folder / "adapters",
            probes=probe_prompts(renderer, self.arena.train[:4]),
            bound=drift_bound(self.recipe),
        )

    def _peak(self, learner: AnyLearner, dtype: str) -> float | None:
        """Operations a second of all ranks' devices together."""
        peak = peak_of(learner.model.device, dtype, given=self.recipe.peak_tflops)
        return None if peak is None else peak * (1 if self.ranks is None else self.ranks.world)

    def _player(self, engine: Engine, model: Path, sampling: Sampling) -> Collector:
        renderer = load_renderer(self.recipe, model)
        rollout = make_rollout(self.recipe, self.arena, engine, renderer, sampling)
        return make_collector(self.recipe, rollout, self.ledger, self.progress, grading=self.grading)

    async def _evaluate(self, split: str, engine: Engine, model: Path, version: PolicyVersion) -> Evaluation:
        """Play the held-out tasks; the result is in the ledger."""
        section, tasks = self.recipe.evaluation, self.arena.held_out
        self.progress.phase(split, len(tasks) * section.samples)
        self.progress.waiting("episodes")
        found = await self.interrupt.during(
            evaluate(
                self._player(engine, model, self.recipe.evaluation_sampling),
                tasks,
                split=split,
                version=version,
                samples=section.samples,
                reward_range=self.arena.env.reward_range,
                passing=section.passing,
                on_group=lambda group: self.progress.advance(len(group.members)),
            )
        )
        self.progress.note(f"{split}: pass@1 {found.pass_at.get(1, 'has no graded episode')}")
        return found
