"""Packages of verifiers 0.1, unmodified: their dataset, their loop, their rubric; our policy.

VerifiersEnv.tasks(package="wiki-search", python=".venv-peers/verifiers/bin/python")
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ..budget import Budget
from ..env import Env, Observation, Step
from ..episode import Episode, Workspace
from ..graders.grading import AnyGrader
from ..message import (
    AssistantMessage,
    Message,
    SystemMessage,
    ToolCall,
    ToolMessage,
    ToolSpec,
    UserMessage,
)
from ..outcome import Score
from ..task import Task, TaskSet
from .errors import PeerLost
from .peer import Peer, Talk, ask_now

BRIDGE = Path(__file__).with_name("_verifiers_bridge.py")
RESULT = "verifiers.json"
"""The file of the workspace that holds what the package's rubric said."""


@dataclass(frozen=True, slots=True)
class PackageRubric:
    """The reward and the metrics of the package's own rubric. A reward function that raised is no number."""

    async def grade(self, task: Task, episode: Episode, workspace: Workspace | None) -> Score:
        result = json.loads(dict(workspace.files if workspace else ())[RESULT])
        if result["broken"]:
            raise RuntimeError("; ".join(result["broken"]))
        metrics = {name: value for name, value in result["metrics"].items() if value is not None}
        return Score(reward=result["reward"], components=metrics, evidence=f"stopped by {result['stop']}")


class VerifiersEnv(Env[Task]):
    """A package with `load_environment`, installed beside verifiers 0.1 in a Python of its own.

    The package plays its own loop in one process for all episodes and asks our policy for each answer. An
    episode that its budget ends is scored by the rubric as it stands. A package that rewrites its
    conversation, shows pictures, or scores whole groups is refused. There are no seeds.
    """

    reward_range: ClassVar[tuple[float, float]] = (-math.inf, math.inf)
    """A rubric may weigh as it likes."""
    grader: AnyGrader | None = PackageRubric()
    budget: Budget = Budget(max_turns=64)

    def __init__(self) -> None:
        self._talk: Talk | None = None
        self._shown: list[dict[str, Any]] = []
        self._result: dict[str, Any] | None = None

    @classmethod
    def tasks(
        cls,
        *,
        package: str,
        python: str,
        arguments: Mapping[str, Any] | None = None,
        split: str = "train",
        size: int | None = None,
        start_s: float = 300.0,
    ) -> TaskSet:
        """The rows of the package's dataset.

        `python`: the interpreter that has verifiers and the package. `arguments`: of `load_environment`.
        `split`: "train" or "eval". `start_s`: seconds for the package to load.
        """
        if split not in ("train", "eval"):
            raise ValueError(f'split={split!r} is neither "train" nor "eval"')
        command = (python, str(BRIDGE), package, json.dumps(dict(arguments or {})))
        rows = ask_now(Peer.of(*command), timeout_s=start_s, do="rows", split=split, size=size)["rows"]
        return TaskSet(
            Task(
                id=f"{package}-{split}-{number}",
                messages=tuple(map(_message, row["prompt"])),
                reference=row["answer"],
                private={"command": command, "split": split, "row": number},
            )
            for number, row in enumerate(rows)
        )

    async def reset(self, task: Task, *, seed: int) -> Observation:
        """Start the package's rollout; what it asks first is the opening."""
        self._talk = Talk(Peer.of(*task.private["command"]))
        said = await self._talk.ask(do="play", split=task.private["split"], row=task.private["row"])
        if "ask" not in said:
            raise PeerLost(f"the package ended before it asked: {said}", is_retryable=False)
        self._shown = said["ask"]
        tools = tuple(ToolSpec(**tool) for tool in said["tools"])
        return Observation(messages=tuple(map(_message, self._shown)), tools=tools)

    async def step(self, action: AssistantMessage) -> Step:
        """Answer the package; what it adds to the conversation before it asks again is the observation."""
        assert self._talk is not None, "reset comes first"
        said = await self._talk.ask(do="say", **_answer(action))
        if "ask" not in said:
            self._result = _done(said)
            return Step(Observation(), 0.0, True, False, {"stop": self._result["stop"]})
        new = self._added(said["ask"])
        self._shown = said["ask"]
        return Step(Observation(messages=tuple(map(_message, new))), 0.0, False, False, {})

    def _added(self, asked: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
        num_known = len(self._shown)
        if asked[:num_known] != self._shown or asked[num_known : num_known + 1] == []:
            raise PeerLost(
                "the package rewrites its conversation; only packages that append to it can be played",
                is_retryable=False,
            )
        return asked[num_known + 1 :]

    async def workspace(self) -> Workspace | None:
        """The rubric's result. An episode that is cut is ended and scored first."""
        assert self._talk is not None
        if self._result is None:
            self._result = _done(await self._talk.ask(do="stop"))
        return Workspace(files=((RESULT, json.dumps(self._result).encode()),))

    async def close(self) -> None:
        if self._talk is not None:
            self._talk.close(do="drop")


def _done(said: Mapping[str, Any]) -> dict[str, Any]:
    """The end of a rollout. Raises `PeerLost` where the package broke, not the policy."""
    if "crash" in said:
        raise PeerLost(f"the package crashed: {said['crash']}", is_retryable=False)
    done: dict[str, Any] = said["done"]
    if done["error"]:
        raise PeerLost(f"the package reports: {done['error']}")
    return done


def _message(row: Mapping[str, Any]) -> Message:
    match row["role"]:
        case "system":
            return SystemMessage(row["content"])
        case "assistant":
            calls = tuple(
                ToolCall(id=call["id"], name=call["name"], arguments=json.loads(call["arguments"]))
                for call in row["tool_calls"]
            )
            return AssistantMessage(row["content"], tool_calls=calls)
        case "tool":
            return ToolMessage(row["content"], call_id=row["tool_call_id"])
        case _:
            return UserMessage(row["content"])


def _answer(action: AssistantMessage) -> dict[str, Any]:
    """What the policy said; calls that could not be parsed stand in the text, as the model wrote them."""
    return {
        "content": "\n".join([action.content, *(call.text for call in action.bad_calls)]),
        "reasoning": action.reasoning,
        "tool_calls": [
            {"id": call.id, "name": call.name, "arguments": json.dumps(dict(call.arguments))}
            for call in action.tool_calls
        ],
        "is_cut": action.usage is not None and action.usage.finish == "length",
    }
