"""Rollout slots beside slow graders: 200 rollouts of 5 s, graders of 60 s, 16 slots."""

import asyncio
import time
from pathlib import Path

import pytest
from graded_rooms import RANGE, V0
from support import run_async

from palaestra.agents.collector import Collector, GroupRequest
from palaestra.agents.grading.inline import Inline
from palaestra.agents.grading.stage import Grading
from palaestra.agents.ledger import Ledger
from palaestra.agents.rollout import Rollout
from palaestra.envs import (
    AssistantMessage,
    Env,
    Episode,
    Observation,
    Score,
    ScriptedPolicy,
    Step,
    Task,
    UserMessage,
    Workspace,
)

pytestmark = pytest.mark.alone

SLOTS, TASKS, SAMPLES = 16, 50, 4


class Slow:
    """A grader that takes its time."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    async def grade(self, task: Task, episode: Episode, workspace: Workspace | None) -> Score:
        await asyncio.sleep(self.seconds)
        return Score(reward=1.0)


def busy_part(folder: Path, second: float) -> float:
    """The part of the slots' time that episodes filled, from the first reset to the last termination."""
    spans: list[tuple[float, float]] = []
    slow = Slow(60 * second)

    class Walk(Env[Task]):
        grader = slow

        async def reset(self, task: Task, *, seed: int) -> Observation:
            self.started = time.monotonic()
            return Observation(messages=(UserMessage("walk"),))

        async def step(self, action: AssistantMessage) -> Step:
            await asyncio.sleep(5 * second)
            return Step(Observation(), 0.0, True, False, {})

        async def close(self) -> None:
            spans.append((self.started, time.monotonic()))

    async def main() -> None:
        rollout = Rollout(
            make_env=Walk, make_policy=lambda task, version, seed: ScriptedPolicy(["on"]), run_seed=0
        )
        wanted = [
            GroupRequest(split="train", epoch=0, task=Task(id=f"{n}"), num_samples=SAMPLES, version=V0)
            for n in range(TASKS)
        ]
        with Ledger(folder) as ledger:
            async with Grading(ledger, Inline(slow), reward_range=RANGE) as grading:
                collector = Collector(rollout.play, ledger, grading=grading, max_in_flight=SLOTS)
                groups = await collector.collect(wanted)
        assert all(member.reward == 1.0 for group in groups for member in group.members)

    run_async(main())
    assert len(spans) == TASKS * SAMPLES
    whole = max(end for _, end in spans) - min(begin for begin, _ in spans)
    return sum(end - begin for begin, end in spans) / (SLOTS * whole)


def test_slow_graders_leave_the_slots_to_the_rollouts(tmp_path: Path) -> None:
    """A tenth of the times. 200 rollouts are 12.5 rounds of 16 slots: at best 96 % are busy."""
    assert busy_part(tmp_path, second=0.1) >= 0.9


@pytest.mark.acceptance
@pytest.mark.timeout(600)
def test_graders_of_a_minute_leave_the_slots_to_the_rollouts(tmp_path: Path) -> None:
    assert busy_part(tmp_path, second=1.0) >= 0.9
