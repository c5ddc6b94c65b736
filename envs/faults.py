"""Faults on purpose, to see what a run makes of them.

faults = Faults(seed=0, rates={Fault.TOOL_CRASH: 0.1, Fault.TOOL_HANG: 0.1, Fault.GRADER_STALL: 0.1})

class ShakyCalculator(FaultyTools[Task], Calculator):
    faults = faults

Every fault that strikes has an id, which `faults.log` keeps and the episode's record shows once: a crash in
its `Failed`, a hang in the tool's answer, a stall in its `Ungraded`.
"""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any, ClassVar

from .env import Env, Observation, TaskT
from .episode import Episode, Workspace
from .graders.grading import Grader, StepRewards
from .outcome import Score
from .task import Task
from .tools import Tool, ToolEnv


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


class Faults:
    """Which calls go wrong: the same ones for the same seed, in whatever order the calls come.

    >>> faults = Faults(seed=0, rates={Fault.TOOL_CRASH: 1.0})
    >>> faults.strike(Fault.TOOL_CRASH, seed=7)
    'tool-crash-f8b5a346acee'
    """

    def __init__(self, *, seed: int, rates: Mapping[Fault, float]) -> None:
        """`rates`: part of the calls that fail, 0 .. 1; a kind that is left out never does."""
        self._seed, self._rates = seed, dict(rates)
        self._met = Counter[tuple[Fault, int]]()
        self.log: list[str] = []
        """The id of every fault so far."""

    def strike(self, fault: Fault, seed: int) -> str | None:
        """The id of a fault, if this call is to fail. `seed`: of the episode, or of the engine call."""
        number = self._met[fault, seed]
        self._met[fault, seed] += 1
        digest = hashlib.blake2b(f"{self._seed}/{fault}/{seed}/{number}".encode(), digest_size=14).digest()
        if int.from_bytes(digest[:8]) / 2**64 >= self._rates.get(fault, 0.0):
            return None
        self.log.append(f"{fault}-{digest[8:].hex()}")
        return self.log[-1]


class FaultyTools(ToolEnv[TaskT]):
    """Put it before a `ToolEnv` among the bases: its tools crash and hang, its grader stalls."""

    faults: ClassVar[Faults]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.offered = MappingProxyType({name: _FaultyTool(item) for name, item in cls.offered.items()})

    async def reset(self, task: TaskT, *, seed: int) -> Observation:
        self.episode_seed = seed
        self.grader = FaultyGrader(self.grader or StepRewards(), self.faults)
        return await super().reset(task, seed=seed)


class _FaultyTool(Tool):
    def __init__(self, tool: Tool) -> None:
        super().__init__(tool.function, tool.timeout_s)

    async def _call(self, env: Env[Any], arguments: dict[str, Any]) -> Any:
        assert isinstance(env, FaultyTools)
        if fault := env.faults.strike(Fault.TOOL_CRASH, env.episode_seed):
            raise InjectedFault(fault)
        if fault := env.faults.strike(Fault.TOOL_HANG, env.episode_seed):
            await _hang(fault)
        return await super()._call(env, arguments)


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
