"""What the tests of the loop share: an environment that can be told to misbehave, and one call to play it."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from support import run_async

from palaestra.envs import (
    AssistantMessage,
    Budget,
    Env,
    Episode,
    Observation,
    Policy,
    ScriptedPolicy,
    Step,
    SystemMessage,
    Task,
    UserMessage,
    Workspace,
    play,
)

TASK = Task(
    id="t",
    messages=(SystemMessage("be brief"), UserMessage("go")),
    reference="the-reference",
    private={"key": "the-private-value"},
    metadata={"note": "the-metadata"},
)


class Room(Env[Task]):
    """Goes on until it hears "end" or "cut"; does what `on` says at each stage."""

    budget = Budget()

    def __init__(self, **on: Callable[[], Any]) -> None:
        self.on = on
        self.num_closed = 0

    async def _do(self, stage: str) -> None:
        if stage in self.on:
            result = self.on[stage]()
            if asyncio.iscoroutine(result):
                await result

    async def reset(self, task: Task, *, seed: int) -> Observation:
        await self._do("reset")
        return await super().reset(task, seed=seed)

    async def step(self, action: AssistantMessage) -> Step:
        await self._do("step")
        heard = Observation(messages=(UserMessage(f"heard {action.content}"),))
        return Step(heard, 0.25, action.content == "end", action.content == "cut", {})

    async def workspace(self) -> Workspace | None:
        await self._do("workspace")
        return Workspace(files=(("a", b"\xff"),))

    def facts(self) -> Mapping[str, str]:
        if "facts" in self.on:
            self.on["facts"]()
        return {"tier": "none"}

    async def close(self) -> None:
        self.num_closed += 1
        await self._do("close")


def raising(error: BaseException) -> Callable[[], Any]:
    def fail() -> None:
        raise error

    return fail


async def forever() -> None:
    await asyncio.Event().wait()


def says(*lines: str | AssistantMessage) -> Policy:
    return ScriptedPolicy(lines)


def run(env: Env[Any], policy: Policy, **limits: Any) -> Episode:
    return run_async(play(env, policy, TASK, seed=7, budget=Budget(**limits)))
