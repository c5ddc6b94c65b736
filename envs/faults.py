"""Faults on purpose, to see what a run makes of them.

faults = Faults(seed=0, rates={Fault.TOOL_CRASH: 0.1, Fault.TOOL_HANG: 0.1, Fault.GRADER_STALL: 0.1})

class ShakyCalculator(FaultyTools[Task], Calculator):
    faults = faults

Every fault that strikes has an id, which `faults.log` keeps and the episode's record shows once: a crash in
its `Failed`, a hang in the tool's answer, a stall in its `Ungraded`.
"""

import asyncio
from enum import StrEnum
from types import MappingProxyType
from typing import Any, ClassVar

from ..sandboxes import Sandbox
from ..sandboxes.faults import Faults, FaultySandbox
from .env import Env, Observation, TaskT
from .episode import Episode, Workspace
from .graders.grading import Grader, GroupGrader, StepRewards
from .outcome import Score
from .sandboxed import SandboxToolEnv
from .task import Task
from .tools import Tool, ToolEnv

__all__ = ["Fault", "Faults", "FaultyGrader", "FaultySandboxTools", "FaultyTools", "InjectedFault"]


class Fault(StrEnum):
    """What can be made to go wrong."""

    TOOL_CRASH = "tool-crash"
    """A tool raises `InjectedFault`."""
    TOOL_HANG = "tool-hang"
    """A tool never answers; its `timeout_s` stops it."""
    GRADER_STALL = "grader-stall"
    """The grader never answers; the grader's time limit stops it."""
    ENGINE_ERROR = "engine-error"
    """The engine answers 500 (`palaestra.agents.faults`)."""


class InjectedFault(Exception):
    """Raised by a tool that was made to crash."""


class FaultyTools(ToolEnv[TaskT]):
    """Put it before a `ToolEnv` among the bases: its tools crash and hang, its grader stalls."""

    faults: ClassVar[Faults]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.offered = MappingProxyType({name: _FaultyTool(item) for name, item in cls.offered.items()})

    async def reset(self, task: TaskT, *, seed: int) -> Observation:
        self.episode_seed = seed
        inner = self.grader or StepRewards()
        if isinstance(inner, GroupGrader):
            raise TypeError(f"{type(inner).__name__} grades groups; faults are for a grader of one episode")
        self.grader = FaultyGrader(inner, self.faults)
        return await super().reset(task, seed=seed)


class _FaultyTool(Tool):
    def __init__(self, tool: Tool) -> None:
        super().__init__(tool.function, tool.timeout_s)

    async def call(self, env: Env[Any], arguments: dict[str, Any]) -> Any:
        assert isinstance(env, FaultyTools)
        if fault := env.faults.strike(Fault.TOOL_CRASH, env.episode_seed):
            raise InjectedFault(fault)
        if fault := env.faults.strike(Fault.TOOL_HANG, env.episode_seed):
            await _hang(fault)
        return await super().call(env, arguments)


class FaultySandboxTools(SandboxToolEnv[TaskT]):
    """Put it before a `SandboxToolEnv` among the bases: its sandbox fails as `SandboxFault` says."""

    faults: ClassVar[Faults]

    async def reset(self, task: TaskT, *, seed: int) -> Observation:
        self.episode_seed = seed
        self._faulty: FaultySandbox | None = None
        return await super().reset(task, seed=seed)

    async def box(self) -> Sandbox:
        box = await super().box()
        if self._faulty is None:
            self._faulty = FaultySandbox(box, self.faults, seed=self.episode_seed)
        return self._faulty


class FaultyGrader:
    """A grader around another one."""

    def __init__(self, grader: Grader, faults: Faults) -> None:
        self._grader, self._faults = grader, faults

    async def grade(self, task: Task, episode: Episode, workspace: Workspace | None) -> Score:
        if fault := self._faults.strike(Fault.GRADER_STALL, episode.seed):
            await _hang(fault)
        return await self._grader.grade(task, episode, workspace)


async def _hang(fault: str) -> None:
    """Wait until a limit cancels, and tell it why."""
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError as error:
        error.add_note(fault)
        raise
