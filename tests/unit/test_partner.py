"""Policies inside an environment: whose time it is, and whose fault."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from rooms import TASK, run, says
from support import run_async

from palaestra.envs import (
    AssistantMessage,
    Budget,
    Env,
    Message,
    Observation,
    Policy,
    Step,
    StopReason,
    Task,
    ToolSpec,
    UserMessage,
    play,
)


class Slow:
    """Needs its time."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    async def __call__(self, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> AssistantMessage:
        await asyncio.sleep(self.seconds)
        return AssistantMessage(f"heard {messages[-1].content}")


class Broken:
    async def __call__(self, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> AssistantMessage:
        raise ConnectionError("the judge is down")


class Court(Env[Task]):
    """Asks its partner, so many at a time, and then thinks for itself."""

    def __init__(self, policy: Policy, *, at_once: int = 1, own_s: float = 0.0) -> None:
        self.policy, self.at_once, self.own_s = policy, at_once, own_s

    async def reset(self, task: Task, *, seed: int) -> Observation:
        await self.partner(self.policy)(task.messages)
        return await super().reset(task, seed=seed)

    async def step(self, action: AssistantMessage) -> Step:
        asked = [self.partner(self.policy)((UserMessage(action.content),)) for _ in range(self.at_once)]
        said = (await asyncio.gather(*asked))[0]
        await asyncio.sleep(self.own_s)
        return Step(
            Observation(messages=(UserMessage(said.content),)), 1.0, action.content == "end", False, {}
        )


def test_a_partner_answers_and_its_seconds_are_not_the_environments() -> None:
    episode = run(Court(Slow(0.3)), says("on", "end"), env_s=0.25)
    assert [message.content for message in episode.messages[-2:]] == ["end", "heard end"]
    assert episode.stop is StopReason.DONE and episode.rewards == (1.0, 1.0)
    assert episode.timing.env_s < 0.2 and episode.timing.wall_s > 0.85


def test_waits_side_by_side_count_once() -> None:
    episode = run(Court(Slow(0.3), at_once=3, own_s=0.1), says("end"), env_s=0.5)
    assert episode.stop is StopReason.DONE
    assert 0.1 <= episode.timing.env_s < 0.3


def test_the_environments_own_seconds_still_count_after_a_wait() -> None:
    episode = run(Court(Slow(0.1), own_s=30.0), says("end"), env_s=0.2)
    assert episode.stop is StopReason.ENV_SECONDS
    assert episode.timing.env_s < 5


def test_a_wall_limit_under_a_slow_partner_is_no_fault_of_the_policy() -> None:
    episode = run(Court(Slow(0.2)), says(*["on"] * 50), wall_s=0.5)
    assert episode.failure is not None and episode.failure.retryable
    assert (episode.failure.stage, episode.failure.cause) == ("partner", "wall")


def test_a_broken_partner_fails_the_episode_and_a_new_try_may_help() -> None:
    class Later(Court):
        async def reset(self, task: Task, *, seed: int) -> Observation:
            return Observation(messages=task.messages)

    episode = run(Later(Broken()), says("end"))
    assert episode.failure is not None and episode.failure.retryable
    assert (episode.failure.stage, episode.failure.message) == ("step", "the judge is down")


def test_a_partner_that_gives_no_message_is_named() -> None:
    class Rude:
        async def __call__(self, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> Any:
            return "yes"

    episode = run(Court(Rude()), says("end"))
    assert episode.failure is not None and not episode.failure.retryable
    assert "a partner returned 'yes'; it must return AssistantMessage" in episode.failure.message


def test_a_cancelled_wait_ends_the_wait() -> None:
    is_asked = asyncio.Event()

    class Silent:
        async def __call__(self, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> AssistantMessage:
            is_asked.set()
            return await asyncio.Future[AssistantMessage]()

    env = Court(Silent())

    async def main() -> float:
        episode = asyncio.create_task(play(env, says("end"), TASK, seed=0, budget=Budget(env_s=5.0)))
        await is_asked.wait()
        episode.cancel()
        with pytest.raises(asyncio.CancelledError):
            await episode
        return env.waiting.seconds

    spent = run_async(main())
    assert 0 < spent == env.waiting.seconds
