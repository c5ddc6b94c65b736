"""Environments that the tests of the command line name in recipes, as "cli_envs:Odd"."""

import asyncio
import os
from pathlib import Path
from typing import Any

from palaestra.envs import (
    AssistantMessage,
    Env,
    Episode,
    Observation,
    Policy,
    SandboxToolEnv,
    Score,
    ScriptedPolicy,
    Step,
    Task,
    TaskSet,
    UserMessage,
    Workspace,
)


class NoVerdict:
    """Cannot tell."""

    async def grade(self, task: Task, episode: Episode, workspace: Workspace | None) -> Score:
        raise ValueError("no verdict")


class Odd(Env[Task]):
    """Say an odd number of characters: what a model with random weights does half of the time."""

    def __init__(self, *, api_key: str = "") -> None:
        self._api_key = api_key

    @classmethod
    def tasks(cls, *, size: int = 24, path: Path | None = None) -> TaskSet:
        """`path`: a file with a question in each line."""
        questions = [f"{n}?" for n in range(size)] if path is None else Path(path).read_text().splitlines()
        return TaskSet(
            Task(id=str(number), messages=(UserMessage(question),))
            for number, question in enumerate(questions)
        )

    @classmethod
    def oracle(cls, task: Task) -> Policy:
        return ScriptedPolicy(["odd"])

    async def step(self, action: AssistantMessage) -> Step:
        heard = UserMessage(f"listening: {listening()}")
        return Step(Observation(messages=(heard,)), float(len(action.content) % 2), True, False, {})


class NoOracle(Odd):
    """Nobody shows how it is done."""

    @classmethod
    def oracle(cls, task: Task) -> Policy:
        return super(Odd, cls).oracle(task)


class Boxed(Odd, SandboxToolEnv[Task]):
    """Needs a sandbox, though it never runs anything."""


class NoTasks(Env[Task]):
    """Forgot its task set."""


class BrokenTasks(Odd):
    """Has a bug in its task set."""

    @classmethod
    def tasks(cls, *, size: int = 24, path: Path | None = None) -> TaskSet:
        return {"train": Odd.tasks()}[f"test-{size}"]


class ListTasks(Odd):
    """Thinks that a list is a task set."""

    @classmethod
    def tasks(cls, *, size: int = 24, path: Path | None = None) -> Any:
        return list(Odd.tasks(size=size))


class BrokenInit(Odd):
    """Has a bug in its constructor."""

    def __init__(self) -> None:
        self._api_key = str(1 / 0)


class Chatty(Odd):
    """Prints, and so does a process of its own."""

    async def step(self, action: AssistantMessage) -> Step:
        print("debug")
        process = await asyncio.create_subprocess_exec("echo", "debug")
        await process.wait()
        return await super().step(action)


class Served(Odd):
    """Needs a service, which is up when the variable SERVICE says so."""

    async def reset(self, task: Task, *, seed: int) -> Observation:
        if os.environ.get("SERVICE") != "up":
            raise ConnectionError("the service is down")
        return await super().reset(task, seed=seed)


class NeverGraded(Odd):
    """Has a bug in its grader."""

    grader = NoVerdict()


class Slow(Odd):
    """Leaves time to say that nothing ends."""

    async def step(self, action: AssistantMessage) -> Step:
        await asyncio.sleep(0.3)
        return await super().step(action)


def listening() -> list[str]:
    """The TCP addresses at which this process listens, as /proc/net writes them."""
    mine = {os.readlink(entry.path) for entry in os.scandir("/proc/self/fd") if os.path.exists(entry.path)}
    rows = [
        line.split()
        for table in ("/proc/self/net/tcp", "/proc/self/net/tcp6")
        for line in Path(table).read_text().splitlines()[1:]
    ]
    return [row[1] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in mine]
