"""Plain functions as graders: each argument is filled by its name."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

from ..episode import Episode, Workspace
from ..message import to_openai
from ..outcome import Score
from ..task import Task
from ..threads import in_thread
from ._functions.plain import PlainCall
from ._functions.reply import read_plain

REFERENCE_NAMES = ("reference", "reference_answer", "ground_truth", "answer")
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


@dataclass(frozen=True, slots=True)
class NamedReward:
    """A function whose arguments say what it wants to know.

    >>> def score(completion: str, reference: str) -> float: ...

    task, episode, workspace                         what graders get
    completion, solution_str                         the text of the last answer
    reference, reference_answer, ground_truth, answer    what is expected
    prompt, messages                                 the opening as text; all messages in OpenAI's form
    any field of the row                             its value; `**kwargs` takes all of them

    One that takes `completions` is called as TRL does it: every value is a list of one, and so is its answer.
    It may return a number, a `Score`, or a dict with "score", whose other numbers become components.

    One that `load_reward` found in a file or a module runs in worker processes, which a limit can kill. Any
    other may be known to this program alone: it runs here, a plain `def` in a thread, which nothing can kill.
    """

    function: Callable[..., Any]
    _: KW_ONLY
    call: PlainCall | None = field(default=None, repr=False, compare=False)
    """Where worker processes find the function; None: nowhere."""

    async def grade(self, task: Task, episode: Episode, workspace: Workspace | None) -> Score:
        values = _values(task, episode)
        if self._is_batched:
            values = {name: [value] for name, value in values.items()}
            values["completions"] = [[{"role": "assistant", "content": _completion(episode)}]]
            values["prompts"] = [[to_openai(message) for message in task.messages]]
        objects = {"task": task, "episode": episode, "workspace": workspace}
        arguments = self._chosen(values | objects, values)
        if self.call is not None:
            return await self.call(arguments, is_batched=self._is_batched)
        if inspect.iscoroutinefunction(self.function):
            said = await self.function(**arguments)
        else:
            said = await in_thread(lambda: self.function(**arguments))
        return read_plain(said, is_batched=self._is_batched)

    def check(self, task: Task) -> None:
        """Raise `ValueError` where an argument has no value for a task like this one."""
        known = {*_values(task, None), "task", "episode", "workspace"}
        if self._is_batched:
            known |= {"completions", "prompts"}
        for name, parameter in inspect.signature(self.function).parameters.items():
            if parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
                raise ValueError(f"the argument {name!r} cannot be given by its name; leave the '/' out")
            if parameter.kind in _NAMED and parameter.default is parameter.empty and name not in known:
                raise ValueError(
                    f"there is no value for the argument {name!r}; known: {', '.join(sorted(known))}"
                )

    @property
    def _is_batched(self) -> bool:
        return "completions" in inspect.signature(self.function).parameters

    def _chosen(self, known: Mapping[str, Any], rest: Mapping[str, Any]) -> dict[str, Any]:
        parameters = inspect.signature(self.function).parameters
        chosen = {name: known[name] for name in parameters if name in known}
        if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values()):
            chosen = {**rest, **chosen}
        return chosen


def _values(task: Task, episode: Episode | None) -> dict[str, Any]:
    completion = _completion(episode)
    said = () if episode is None else episode.messages
    return {
        **dict.fromkeys(REFERENCE_NAMES, task.reference),
        "prompt": task.prompt_text,
        **task.metadata,
        "completion": completion,
        "solution_str": completion,
        "messages": [to_openai(message) for message in said],
    }


def _completion(episode: Episode | None) -> str:
    return episode.answers[-1].content if episode is not None and episode.answers else ""
