"""The environment: reset, step, close."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

from .budget import Budget
from .episode import Workspace
from .graders.grading import AnyGrader
from .message import AssistantMessage, Message, ToolSpec
from .partner import Partner, Waiting
from .policy import Policy
from .task import Task, TaskSet

TaskT = TypeVar("TaskT", bound=Task)


@dataclass(frozen=True, kw_only=True, slots=True)
class Observation:
    """New messages for the policy. The transcript is kept by `play`; an env hands over only what is new."""

    messages: tuple[Message, ...] = ()
    tools: tuple[ToolSpec, ...] = ()
    """The tools on offer. Read at reset; the offer does not change during an episode."""


class Step(NamedTuple):
    """The result of `Env.step`, in Gymnasium's order."""

    observation: Observation
    reward: float
    terminated: bool
    truncated: bool
    info: Mapping[str, Any]
    """Diagnostics; never read by the core."""


class Env(Generic[TaskT]):
    """Base class of environments. Single use: one instance plays one episode.

    `reset` and `step` may be plain `def` too: they then run in a worker process.
    """

    reward_range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    """(floor, maximum) of an episode's reward: it passes with the maximum. A grader's score outside is
    `Ungraded`; step rewards count as they are."""
    grader: AnyGrader | None = None
    """A `Grader`, or a `GroupGrader` of siblings. None: the reward is the sum of the step rewards."""
    budget: Budget = Budget(max_turns=16)

    @classmethod
    def tasks(cls, *args: Any, **options: Any) -> TaskSet:
        """The tasks of this environment; `options`, all by keyword, are the recipe's `env.tasks`."""
        raise NotImplementedError(
            f"{cls.__name__} has no task set of its own: define the classmethod `tasks`"
        )

    @classmethod
    def oracle(cls, task: Task) -> Policy:
        """A scripted policy that earns the maximum on `task`; it may look at everything. For `check env`."""
        raise NotImplementedError(f"{cls.__name__} has no oracle: define the classmethod `oracle`")

    @classmethod
    def best_mean(cls, task: Task) -> float:
        """The mean reward of the oracle on `task` over all seeds: the maximum, unless luck decides."""
        return cls.reward_range[1]

    async def reset(self, task: TaskT, *, seed: int) -> Observation:
        """Start on `task`. The default shows the task's own messages and tools."""
        return Observation(messages=task.messages, tools=task.tools)

    async def step(self, action: AssistantMessage) -> Step:
        """React to what the policy said. The default ends the episode: one question, one answer."""
        return Step(Observation(), 0.0, True, False, {})

    async def close(self) -> None:
        """Free what the episode held. Called exactly once, however it ended."""

    async def workspace(self) -> Workspace | None:
        """Files for a grader; called after the last step, before `close`."""
        return None

    @cached_property
    def waiting(self) -> Waiting:
        """The time that partners have taken."""
        return Waiting()

    def partner(self, policy: Policy) -> Partner:
        """Another policy, as an `async` environment calls it: `await self.partner(user)(messages)`.

        Its seconds are not the environment's own: they count for `wall_s` and not for `env_s`. Its errors
        fail the episode, as those of the policy that plays.
        """
        return Partner(policy, self.waiting)

    def facts(self) -> Mapping[str, str]:
        """What should stand in the episode's record, such as the sandbox tier."""
        return {}
