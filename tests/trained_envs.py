"""Environments for whole training runs, which load them by "trained_envs:Class"."""

import asyncio
from dataclasses import dataclass
from typing import Any, ClassVar

from palaestra.envs import (
    AssistantMessage,
    Env,
    Episode,
    Observation,
    Policy,
    Score,
    ScriptedPolicy,
    Step,
    Task,
    TaskSet,
    ToolEnv,
    UserMessage,
    tool,
)
from palaestra.envs.catalog.arithmetic import Arithmetic, ShortAnswer
from palaestra.envs.episode import Workspace
from palaestra.envs.faults import Faults, FaultyTools
from palaestra.envs.graders import AnyGrader


@dataclass(frozen=True, slots=True)
class Digits:
    """The maximum for a right answer; otherwise some credit for digits, which a random model earns too."""

    async def grade(self, task: Task, episode: Episode, workspace: Workspace | None) -> Score:
        score = await ShortAnswer().grade(task, episode, workspace)
        said = "".join(m.content for m in episode.messages if isinstance(m, AssistantMessage))
        share = sum(char.isdigit() for char in said) / (1 + len(said))
        return Score(reward=max(score.reward, share / 2))


class Sums(Arithmetic):
    """Siblings nearly always differ in reward, so that every step has something to learn."""

    grader: AnyGrader | None = Digits()


@dataclass(frozen=True, slots=True)
class Slowly(Digits):
    """Takes its time."""

    async def grade(self, task: Task, episode: Episode, workspace: Workspace | None) -> Score:
        await asyncio.sleep(0.2)
        return await Digits.grade(self, task, episode, workspace)


class SlowSums(Sums):
    """`Sums` that nobody grades at once."""

    grader: AnyGrader | None = Slowly()


class Plus(ToolEnv[Task]):
    """Sums by a tool that needs no sandbox, and is stopped soon."""

    grader: AnyGrader | None = Digits()

    @classmethod
    def tasks(cls, **options: Any) -> TaskSet:
        return Sums.tasks(**options)

    @classmethod
    def oracle(cls, task: Task) -> Policy:
        return Sums.oracle(task)

    @tool(timeout_s=0.05)
    async def python(self, code: str) -> str:
        """Says how long the code is.

        Args:
            code: a whole program
        """
        return str(len(code))


class Shaky(FaultyTools[Task], Plus):
    """`Plus` with faults; the test that uses it sets the plan."""

    faults: ClassVar[Faults]


@dataclass(frozen=True, slots=True)
class Unsure(Digits):
    """Cannot tell what a third of the episodes is worth, whatever they said."""

    async def grade(self, task: Task, episode: Episode, workspace: Workspace | None) -> Score:
        if episode.seed % 3 == 0:
            raise ValueError("no idea")
        return await Digits.grade(self, task, episode, workspace)


class UnsureSums(Sums):
    """`Sums`, and a grader that leaves many without a number."""

    grader: AnyGrader | None = Unsure()


class Bandit(Env[Task]):
    """One pull: the arms are called 0 to 9, and each machine has them in another order."""

    PAYS: ClassVar[tuple[float, ...]] = tuple(round(0.6**place, 3) for place in range(10))
    """What an arm pays, the best first."""

    @classmethod
    def pays(cls, machine: int) -> dict[str, float]:
        """By arm."""
        return {str((3 * machine + place) % 10): pay for place, pay in enumerate(cls.PAYS)}

    @classmethod
    def tasks(cls, *, machines: int = 5) -> TaskSet:
        return TaskSet(
            Task(id=str(n), messages=(UserMessage(f"Machine {n}"),), private={"pays": cls.pays(n)})
            for n in range(machines)
        )

    @classmethod
    def oracle(cls, task: Task) -> Policy:
        pays = cls.pays(int(task.id))
        return ScriptedPolicy([max(pays, key=pays.__getitem__)])

    async def reset(self, task: Task, *, seed: int) -> Observation:
        self._pays = task.private["pays"]
        return await super().reset(task, seed=seed)

    async def step(self, action: AssistantMessage) -> Step:
        return Step(Observation(), self._pays.get(action.content.strip(), 0.0), True, False, {})
