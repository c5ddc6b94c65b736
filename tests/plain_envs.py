"""Plain `def` environments and functions for worker processes, which import them by name."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping

from palaestra.envs import (
    AssistantMessage,
    Env,
    Observation,
    Policy,
    ScriptedPolicy,
    Step,
    Task,
    TaskSet,
    UserMessage,
)
from palaestra.envs.episode import Workspace


class PlainCounter(Env[Task]):
    """Counts its steps; some words make it misbehave."""

    def __init__(self, start: int = 0) -> None:
        self.count = start

    def reset(self, task: Task, *, seed: int) -> Observation:  # type: ignore[override]  # plain on purpose
        return Observation(messages=(UserMessage(f"pid {os.getpid()} seed {seed}"),))

    def step(self, action: AssistantMessage) -> Step:  # type: ignore[override]  # plain on purpose
        match action.content:
            case "hang":
                while True:  # deaf to everything but a kill
                    time.sleep(0.01)
            case "exit":
                os._exit(3)
            case "raise":
                raise KeyError("from the worker")
            case "unpicklable":
                raise Unpicklable(lambda: None)
            case _:
                self.count += 1
        said = Observation(messages=(UserMessage(f"count {self.count}"),))
        return Step(said, 0.5, action.content == "end", False, {})

    async def workspace(self) -> Workspace:
        return Workspace(files=(("count", str(self.count).encode()),))

    def facts(self) -> Mapping[str, str]:
        return {"count": str(self.count)}


class Unpicklable(Exception):
    """Carries what pickle refuses."""


class PlainStep(Env[Task]):
    """Only `step` is plain; reset is the base class's coroutine."""

    @classmethod
    def tasks(cls) -> TaskSet:
        return TaskSet([Task(id="t")])

    @classmethod
    def oracle(cls, task: Task) -> Policy:
        return ScriptedPolicy([])

    def step(self, action: AssistantMessage) -> Step:  # type: ignore[override]  # plain on purpose
        return Step(Observation(), 1.0, True, False, {})


class Leaving(Env[Task]):
    """Ends the process at the first step, if it may."""

    @classmethod
    def tasks(cls) -> TaskSet:
        return TaskSet([Task(id="t")])

    async def step(self, action: AssistantMessage) -> Step:
        sys.exit(0)


def hang(path: str, pid: int | None = None) -> None:
    """Write a pid, by default this process's, to `path`, and stay."""
    with open(f"{path}.part", "w") as file:
        file.write(str(pid or os.getpid()))
    os.rename(f"{path}.part", path)
    time.sleep(600)


def hang_with_a_child(path: str) -> None:
    """`hang` with the pid of a child that would outlive this process."""
    hang(path, subprocess.Popen(["sleep", "600"]).pid)


def throw(kind: type[BaseException]) -> None:
    """Raise what is no `Exception`."""
    raise kind("bug")
