"""An environment from a dataset and a reward alone."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from .datasets import read_tasks
from .env import Observation, Step
from .graders.grading import AnyGrader
from .graders.named import NamedReward
from .message import AssistantMessage
from .policy import Policy
from .row_tools import RowTool, row_tools
from .scripted import ScriptedPolicy
from .task import Task, TaskSet
from .tools import ToolEnv

NO_FUNCTIONS: Mapping[str, Callable[..., Any]] = MappingProxyType({})


class DatasetEnv(ToolEnv[Task]):
    """The rows of a file, each a task; `dataset_env` makes the class.

    The first answer ends the episode. Where the rows have tools and there are functions for them, calls are
    answered, until a message has none. Functions are shared by all episodes: what they keep is kept for all.
    """

    functions: ClassVar[Mapping[str, Callable[..., Any]]] = NO_FUNCTIONS
    """What does the work of the rows' tools, by name."""

    def __init__(self) -> None:
        self._tools: dict[str, RowTool] = {}

    @classmethod
    def tasks(cls) -> TaskSet:
        raise NotImplementedError("a class of `dataset_env` has tasks")

    @classmethod
    def oracle(cls, task: Task) -> Policy:
        """Says the reference, where that is a text or a number."""
        if isinstance(task.reference, bool) or not isinstance(task.reference, str | int | float):
            raise NotImplementedError(
                f"a dataset has an oracle only where the reference is a text or a number; that of task "
                f"{task.id!r} is {task.reference!r:.100}"
            )
        return ScriptedPolicy([str(task.reference)])

    def on_offer(self) -> Mapping[str, RowTool]:
        return self._tools

    async def reset(self, task: Task, *, seed: int) -> Observation:
        """Show the row's messages and tools."""
        if self.functions:
            self._tools = row_tools(task, self.functions)
        return Observation(messages=task.messages, tools=task.tools)

    async def step(self, action: AssistantMessage) -> Step:
        """Answer calls; without functions for them, a call is an answer as good as any."""
        if not self._tools:
            return Step(Observation(), 0.0, True, False, {})
        return await super().step(action)


def dataset_env(
    data: str | Path,
    reward: AnyGrader,
    *,
    functions: Mapping[str, Callable[..., Any]] = NO_FUNCTIONS,
    reward_range: tuple[float, float] = (0.0, 1.0),
    prompt: str | None = None,
    reference: str | None = None,
) -> type[DatasetEnv]:
    """The environment of a dataset.

    >>> dataset_env("train.jsonl", load_reward("lambda_function.py")).tasks()    # doctest: +SKIP

    `prompt` and `reference`: names of the fields that hold them, where they are called otherwise. `tasks`
    raises `DatasetError`, and `ValueError` for rows whose tools or rewards cannot work.
    """
    made, bounds = functions, reward_range

    class Dataset(DatasetEnv):
        grader = reward
        reward_range = bounds
        functions = made

        @classmethod
        def tasks(cls) -> TaskSet:
            tasks = read_tasks(data, prompt=prompt, reference=reference)
            for task in tasks:
                if cls.functions:
                    row_tools(task, cls.functions)
            if tasks and isinstance(reward, NamedReward):
                reward.check(tasks[0])
            return tasks

    Dataset.__qualname__ = Dataset.__name__
    return Dataset
