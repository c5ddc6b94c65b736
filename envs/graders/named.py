"""Plain functions as graders: each argument is filled by its name."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from ..episode import Episode, Workspace
from ..message import to_openai
from ..outcome import Score, finite
from ..task import Task
from ..threads import in_thread

REFERENCE_NAMES = ("reference", "reference_answer", "ground_truth", "answer")
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


@dataclass(frozen=True, slots=True)
class NamedReward:
    """A function whose arguments say what it wants to know. A plain `def` runs in a thread.

    >>> def score(completion: str, reference: str) -> float: ...

    task, episode, workspace                         what graders get
    completion, solution_str                         the text of the last answer
    reference, reference_answer, ground_truth, answer    what is expected
    prompt, messages                                 the opening as text; all messages in OpenAI's form
    any field of the row                             its value; `**kwargs` takes all of them

    One that takes `completions` is called as TRL does it: every value is a list of one, and so is its answer.
    It may return a number, a `Score`, or a dict with "score", whose other numbers become components.
    """

    function: Callable[..., Any]

    async def grade(self, task: Task, episode: Episode, workspace: Workspace | None) -> Score:
        values = _values(task, episode)
        if self._is_batched:
            values = {name: [value] for name, value in values.items()}
            values["completions"] = [[{"role": "assistant", "content": _completion(episode)}]]
            values["prompts"] = [[to_openai(message) for message in task.messages]]
        objects = {"task": task, "episode": episode, "workspace": workspace}
        arguments = self._chosen(values | objects, values)
        if inspect.iscoroutinefunction(self.function):
            said = await self.function(**arguments)
        else:
            said = await in_thread(lambda: self.function(**arguments))
        return _score(_only(said) if self._is_batched else said)

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


def _only(said: object) -> object:
    if not isinstance(said, list) or len(cast(list[object], said)) != 1:
        raise TypeError(f"the reward of one completion is {said!r:.200}; it must be a list of one number")
    return cast(list[object], said)[0]


def _score(said: object) -> Score:
    if isinstance(said, Score):
        return said
    if isinstance(said, dict) and "score" in said:
        fields = cast(dict[str, Any], said)
        parts = {
            name: float(part)
            for name, part in fields.items()
            if isinstance(part, int | float) and name != "score"
        }
        return Score(reward=finite(fields["score"], "score"), components=parts)
    return Score(reward=finite(said, "the reward"))
