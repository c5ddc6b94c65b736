"""The main loop: collect groups, learn, publish, checkpoint.

    tasks ──Collector──> groups ──judge──> rows ──Learner──> weights ──Publisher──> engine
                │                              │
                └────────── Ledger ────────────┘──> checkpoints, metrics.jsonl

A step that was collected before a run died is taken from the ledger, so that going on after a crash is the
same code as going on after a step.
"""

import asyncio
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

from ..agents.collector import Collector, GroupRequest, is_retryable
from ..agents.engine import PolicyVersion
from ..agents.ledger import Ledger
from ..agents.trajectory import Group, Trajectory
from ..envs import TaskSet
from ..sandboxes.backoff import backoff_s
from .errors import Diverged, NothingGraded
from .interrupt import Interrupt
from .judge import Judgement, judge, overlong_of
from .publisher import Publisher
from .recipe import Recipe
from .reporting.metrics import (
    MetricsFile,
    bias_metrics,
    episode_metrics,
    judgement_metrics,
    overlong_metrics,
    troubles,
)
from .reporting.progress import Progress
from .trackers.several import Trackers
from .update import Update, Updater
from .weights.checkpoint import Checkpoints

MAX_OUTAGE_TRIES = 10
"""Of a step in which nobody could play for a passing reason: several minutes at the usual pauses."""
MAX_BLIND_STEPS = 3
"""After so many steps in which nobody could play or grade for a lasting reason, or in which every update was
left out, ask a person."""


@dataclass(kw_only=True, slots=True)
class Trainer:
    """Trains one policy by trajectory-level GRPO. Its parts are made in `run.py`."""

    num_steps: int = 0
    """Steps that the learner's weights have behind them; policy version n is the one after n steps."""
    blind_steps: int = 0
    """Steps up to now, in a row and since this start, in which no episode had a number."""
    lost_steps: int = 0
    """Steps with updates up to now, in a row and since this start, of which each update was left out."""

    recipe: Recipe
    tasks: TaskSet
    max_reward: float
    """The environment's maximum: an episode that reaches it passes."""
    min_reward: float = -math.inf
    """The environment's floor."""
    collector: Collector
    updater: Updater
    publisher: Publisher
    ledger: Ledger
    checkpoints: Checkpoints
    metrics: MetricsFile
    trackers: Trackers
    interrupt: Interrupt
    progress: Progress

    async def step(self) -> None:
        """One turn of the loop."""
        clock, step = _Clock(), self.num_steps
        self.progress.waiting("episodes")
        groups = await self._groups(step)
        clock.lap("collect_s")

        self.progress.waiting("learner")
        judgement = judge(
            groups, self.recipe.grpo, seed=self.recipe.seed, step=step, late=self.recipe.late_groups
        )
        update = await asyncio.to_thread(self.updater.update, judgement.accepted, step=step)
        self.num_steps = step + 1
        clock.lap("learn_s")
        if update.metrics.get("skipped"):
            self.progress.note(f"step {self.num_steps}: a gradient was not finite, its update is left out")

        self.progress.waiting("publish")
        await self.publisher.publish(PolicyVersion(self.num_steps))
        clock.lap("publish_s")

        metrics = {**self._numbers(groups, judgement, update), **clock.numbers}
        record = {
            **update.record,
            "groups": [[member.key.columns for member in group.members] for group in groups],
            "rejected": judgement.rejected_rows,
            "metrics": metrics,
        }
        self.ledger.record_step(self.num_steps, record)
        self.metrics.write(metrics)
        await self.trackers.log(self.num_steps, metrics)
        self.progress.step(metrics)
        if self.num_steps % self.recipe.checkpoint.every == 0:
            await self.checkpoint()
        self._expect_numbers(groups)
        self._expect_updates(update)

    def _numbers(self, groups: Sequence[Group], judgement: Judgement, update: Update) -> dict[str, float]:
        """Of the step that has just been made."""
        section = self.recipe.grpo
        return {
            "step": self.num_steps,
            "epoch": (self.num_steps - 1) * section.tasks_per_step // len(self.tasks),
            **episode_metrics(groups, self.max_reward),
            **judgement_metrics(judgement),
            **overlong_metrics(groups, overlong_of(section)),
            **bias_metrics(groups, judgement, (self.min_reward, self.max_reward)),
            **update.metrics,
            **self.publisher.metrics,
        }

    async def _groups(self, step: int) -> list[Group]:
        """The step's groups. While nobody can play for a passing reason, its samples get new tries: a step
        without a number would use them up."""
        is_settled = step + 1 in self.ledger.step_numbers()
        for tries in range(1, MAX_OUTAGE_TRIES + 1):
            groups = await self.interrupt.during(self.collector.collect(self.requests(step)))
            members = [member for group in groups for member in group.members]
            has_number = any(member.reward is not None for member in members)
            if is_settled or has_number or not any(map(is_retryable, members)):
                return groups
            if tries == MAX_OUTAGE_TRIES:
                raise NothingGraded(
                    f"nobody could play step {step + 1} in {tries} tries of all its episodes: "
                    f"{_most(members)}; mend that and go on with --resume"
                )
            self.progress.waiting("an outage to be over")
            await self.interrupt.during(asyncio.sleep(backoff_s(self.recipe.grpo.retry_s, tries + 1)))
        raise AssertionError("the last try returns or raises")

    def _expect_numbers(self, groups: Sequence[Group]) -> None:
        """Raise `NothingGraded` after a few steps in a row in which no episode has a number."""
        members = [member for group in groups for member in group.members]
        if any(member.reward is not None for member in members):
            self.blind_steps = 0
            return
        self.blind_steps += 1
        if self.blind_steps == MAX_BLIND_STEPS:
            raise NothingGraded(
                f"no episode of the last {MAX_BLIND_STEPS} steps has a number, so that nothing is learned: "
                f"{_most(members)}; mend that, and go on with --resume if no file of the recipe has changed; "
                "else begin a run on its weights by --continue and --set name=..."
            )

    def _expect_updates(self, update: Update) -> None:
        """Raise `Diverged` after a few steps in a row in which every update was left out."""
        if update.record["updates"]:  # without one, nothing is known of the gradient
            self.lost_steps = self.lost_steps + 1 if update.is_lost else 0
        if self.lost_steps == MAX_BLIND_STEPS:
            raise Diverged(
                f"every update of the last {MAX_BLIND_STEPS} steps with one was left out, its gradient not "
                f"being finite (the last loss is {update.metrics['loss']:g}), so that nothing is learned; "
                "look at grpo.loss and its options, set model.dtype to float32, or start a new run with a "
                "lower optimizer.lr"
            )

    async def checkpoint(self) -> None:
        """Keep the learner as it is now."""
        if self.num_steps not in self.checkpoints.steps():
            self.progress.waiting("checkpoint")
            await asyncio.to_thread(self.checkpoints.save, self.num_steps, self.updater.learner)

    async def restore(self) -> None:
        """Go on from the newest good checkpoint, if there is one."""
        self.num_steps = await asyncio.to_thread(self.checkpoints.restore, self.updater.learner)
        records = (self.ledger.step(step) for step in self.ledger.step_numbers() if step <= self.num_steps)
        rows = [record["metrics"] for record in records if record is not None]
        self.metrics.rewrite(rows)
        await self.trackers.resume(rows)
        if self.num_steps:
            self.progress.note(f"going on after step {self.num_steps}")
            await self.publisher.publish(PolicyVersion(self.num_steps))

    def requests(self, step: int) -> list[GroupRequest]:
        """The groups of a step: an epoch is one pass over the tasks."""
        section, num_tasks = self.recipe.grpo, len(self.tasks)
        first = step * section.tasks_per_step
        places = [divmod(first + number, num_tasks) for number in range(section.tasks_per_step)]
        orders = {epoch: self._order(epoch) for epoch in {epoch for epoch, _ in places}}
        # Other members than the first time would make other weights than the later steps were sampled with.
        is_settled = step + 1 in self.ledger.step_numbers()
        return [
            GroupRequest(
                split="train",
                epoch=epoch,
                task=self.tasks[orders[epoch][at]],
                num_samples=section.group_size,
                refill=section.refill,
                version=PolicyVersion(step),
                is_settled=is_settled,
            )
            for epoch, at in places
        ]

    def _order(self, epoch: int) -> Sequence[int]:
        order = list(range(len(self.tasks)))
        if self.recipe.grpo.shuffle_tasks:
            random.Random(f"{self.recipe.seed}/{epoch}").shuffle(order)
        return order


def _most(members: Sequence[Trajectory]) -> str:
    """The most common trouble."""
    reason, number = next(iter(troubles(members).items()))
    return f"{number} of {len(members)} ended with: {reason}"


class _Clock:
    """Seconds between laps."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self._laps: dict[str, float] = {}

    @property
    def numbers(self) -> dict[str, float]:
        """By lap, and of all of them."""
        return {**self._laps, "step_s": sum(self._laps.values())}

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self._laps[name], self._last = now - self._last, now
