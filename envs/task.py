"""Tasks and sets of tasks."""

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

from .message import Message, SystemMessage, ToolSpec, utf8


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One thing to do. `reference` and `private` are for graders and tools; they never reach the model."""

    id: str
    """Unique in its task set and stable from run to run."""
    messages: tuple[Message, ...] = ()
    """The opening conversation."""
    tools: tuple[ToolSpec, ...] = ()
    reference: Any = None
    """The expected answer."""
    private: Mapping[str, Any] = field(default_factory=dict[str, Any])
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def prompt_text(self) -> str:
        """The opening conversation as one string: what "the same prompt" means."""
        return "\n".join(message.content for message in self.messages)

    @property
    def is_asked(self) -> bool:
        """Whether the opening conversation asks something; else `reset` does."""
        return any(not isinstance(message, SystemMessage) for message in self.messages)

    @property
    def question(self) -> str:
        """What tells it from others: its prompt, or its id where `reset` asks."""
        return f"prompt {self.prompt_text}" if self.is_asked else f"id {self.id}"


def seed_of(text: str) -> int:
    """[0, 2**31): the seed that a text stands for, the same in every process.

    >>> seed_of("0/chess/7") == seed_of("0/chess/7")
    True
    """
    return random.Random(text).getrandbits(31)


def _checked(task: Any) -> Task:
    """The task, if a run file can name its episodes."""
    if not isinstance(task, Task):
        raise ValueError(f"a task set holds {task!r:.200}; it must hold palaestra.envs.Task")
    name: Any = task.id
    if not isinstance(name, str) or utf8(name) != name:
        raise ValueError(f"task id {name!r} is no text in UTF-8; give each task a str, as in id=str(5)")
    return task


class TaskSet(Sequence[Task]):
    """An ordered, finite set of tasks with unique ids.

    >>> tasks = TaskSet([Task(id="a"), Task(id="b")])
    >>> [task.id for task in tasks]
    ['a', 'b']
    """

    def __init__(self, tasks: Iterable[Task]) -> None:
        self._tasks = tuple(map(_checked, tasks))
        self._by_id = {task.id: task for task in self._tasks}
        if len(self._by_id) != len(self._tasks):
            twice, _ = Counter(task.id for task in self._tasks).most_common(1)[0]
            raise ValueError(
                f"task id {twice!r} stands twice in the task set; give each task an id of its own"
            )

    def __len__(self) -> int:
        return len(self._tasks)

    def __iter__(self) -> Iterator[Task]:
        return iter(self._tasks)

    @overload
    def __getitem__(self, index: int) -> Task: ...
    @overload
    def __getitem__(self, index: slice) -> "TaskSet": ...
    def __getitem__(self, index: int | slice) -> "Task | TaskSet":
        return TaskSet(self._tasks[index]) if isinstance(index, slice) else self._tasks[index]

    def by_id(self, task_id: str) -> Task:
        """The task with that id; `KeyError` without one."""
        return self._by_id[task_id]

    def split(
        self, num_held_out: int, *, seed: int = 0, keep_order: bool = False
    ) -> "tuple[TaskSet, TaskSet]":
        """(train, held out): shuffled, disjoint by what is asked, not only by id.

        With `keep_order` those to train on stay in their order, whichever are held out.

        With every prompt held out, none is left to train on: enough for an evaluation. Raises `ValueError`
        when there are fewer than `num_held_out` distinct prompts.
        """
        groups: dict[str, list[Task]] = {}
        for task in self._tasks:
            groups.setdefault(task.question, []).append(task)
        prompts = sorted(groups)
        if not 0 <= num_held_out <= len(prompts):
            raise ValueError(
                f"num_held_out={num_held_out} of {len(prompts)} distinct prompts; "
                "ask for fewer, or make the task set larger"
            )
        random.Random(seed).shuffle(prompts)
        held_out = [groups[prompt][0] for prompt in prompts[:num_held_out]]
        held = set(prompts[:num_held_out])
        if keep_order:
            train = [task for task in self._tasks if task.question not in held]
        else:
            train = [task for prompt in prompts[num_held_out:] for task in groups[prompt]]
        return TaskSet(train), TaskSet(held_out)
