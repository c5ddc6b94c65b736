"""Runs where verifiers 0.1 is installed, in an environment apart from ours: standard library and verifiers.

    python _verifiers_bridge.py PACKAGE ARGUMENTS_AS_JSON

One JSON object a line, each with the number of its talk. A package plays its own loop; where it asks its
model, the question goes out as {"ask": ..., "tools": ...} and the answer comes in as {"do": "say", ...}.
"""

import asyncio
import contextvars
import json
import logging
import os
import sys
import time
from importlib import import_module
from typing import Any, cast

LINE_LIMIT = 1 << 28
broken: "contextvars.ContextVar[list[str]]" = contextvars.ContextVar("broken")


class Broken(logging.Handler):
    """verifiers makes 0.0 of a reward function that raises, and says so only in its log."""

    def emit(self, record: logging.LogRecord) -> None:
        told = record.getMessage()
        if "Error calling" in told and "reward function" in told:
            broken.get([]).append(told)


class Bridge:
    """One loaded package, and the episodes under way in it."""

    def __init__(self, out: int, package: str, arguments: "dict[str, Any]") -> None:
        self.out = out
        self.vf: Any = import_module("verifiers")
        self.env = self.vf.load_environment(package, **arguments)
        if self.env.requires_group_rollouts:
            raise ValueError(f"the rubric of {package!r} scores whole groups, not single episodes")
        logging.getLogger("verifiers").addHandler(Broken())
        methods = dict.fromkeys(self.vf.clients.Client.__abstractmethods__)
        self.client_class: Any = type("Asking", (self.vf.clients.Client,), {**methods, "get_response": ask})
        self.answers: dict[int, asyncio.Queue[dict[str, Any]]] = {}
        self.episodes: dict[int, asyncio.Task[None]] = {}

    def say(self, talk: int, **line: Any) -> None:
        data = (json.dumps({"talk": talk, **line}, default=str) + "\n").encode()
        while data:
            data = data[os.write(self.out, data) :]

    async def serve(self) -> None:
        reader = asyncio.StreamReader(limit=LINE_LIMIT)
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
        )
        while line := await reader.readline():
            self.do(json.loads(line))
        for episode in self.episodes.values():
            episode.cancel()

    def do(self, line: "dict[str, Any]") -> None:
        talk = line["talk"]
        if line["do"] == "rows":
            self.say(talk, rows=self.rows(line["split"], line["size"]))
        elif line["do"] == "play":
            self.answers[talk] = asyncio.Queue()
            self.episodes[talk] = asyncio.create_task(self.play(talk, line["split"], line["row"]))
        elif line["do"] == "drop":
            episode = self.episodes.get(talk)
            if episode is not None:
                episode.cancel()
        elif talk in self.answers:
            self.answers[talk].put_nowait(line)

    def dataset(self, split: str) -> Any:
        return self.env.get_dataset() if split == "train" else self.env.get_eval_dataset()

    def rows(self, split: str, size: "int | None") -> "list[dict[str, Any]]":
        data = self.dataset(split)
        chosen = data if size is None else data.select(range(min(size, len(data))))
        return [
            {"prompt": list(map(plain, row["prompt"])), "answer": row.get("answer", "")} for row in chosen
        ]

    async def play(self, talk: int, split: str, row: int) -> None:
        """One rollout of the package's own loop, scored by its own rubric."""
        told: list[str] = []
        broken.set(told)
        client = self.client_class(None)
        client.bridge, client.talk = self, talk
        try:
            row_of_data = dict(self.dataset(split)[row])
            done = await self.env.run_rollout(row_of_data, client, "policy", {})
            error = done.get("error")
            kind = getattr(self.vf, error["error"], Exception) if error else None
            by_policy = kind is not None and issubclass(
                kind, (self.vf.ToolError, self.vf.InvalidModelResponseError)
            )
            self.say(
                talk,
                done={
                    "reward": done["reward"],
                    "metrics": done.get("metrics") or {},
                    "stop": done.get("stop_condition") or "",
                    "is_truncated": bool(done.get("is_truncated")),
                    "error": "" if error is None or by_policy else error["error_chain_str"],
                    "broken": told,
                },
            )
        except Exception as error:  # every kind: the package's own code; told to the episode that ran it
            self.say(talk, crash=f"{type(error).__name__}: {error}")
        finally:
            self.answers.pop(talk, None)
            self.episodes.pop(talk, None)


async def ask(
    self: Any, prompt: Any, model: str, sampling_args: Any, tools: Any = None, **kwargs: Any
) -> Any:
    """verifiers asks its model: `Client.get_response`."""
    bridge: Bridge = self.bridge
    offered = [
        {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
        for tool in tools or ()
    ]
    bridge.say(self.talk, ask=list(map(plain, prompt)), tools=offered)
    line = await bridge.answers[self.talk].get()
    types = bridge.vf.types
    if line["do"] == "stop":
        raise bridge.vf.OverlongPromptError("the episode's budget is used up")
    calls = [types.ToolCall(**call) for call in line["tool_calls"]]
    message = types.ResponseMessage(
        content=line["content"],
        reasoning_content=line["reasoning"] or None,
        tool_calls=calls or None,
        finish_reason="length" if line["is_cut"] else "tool_calls" if calls else "stop",
        is_truncated=line["is_cut"],
        tokens=None,
    )
    return types.Response(
        id=f"talk-{self.talk}", created=int(time.time()), model=model, usage=None, message=message
    )


def plain(message: Any) -> "dict[str, Any]":
    """A message of verifiers, in a row or in a prompt, as role, text, calls and the call it answers."""
    row = fields(message)
    calls = row.get("tool_calls") or ()
    return {
        "role": row["role"],
        "content": text(row.get("content")),
        "tool_calls": [json.loads(call) if isinstance(call, str) else call for call in calls],
        "tool_call_id": row.get("tool_call_id") or "",
    }


def fields(value: Any) -> "dict[str, Any]":
    return cast("dict[str, Any]", value if isinstance(value, dict) else value.model_dump())


def text(content: Any) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    parts = list(map(fields, content))
    for part in parts:
        if part.get("type") != "text":
            raise ValueError(f"a message holds a part of type {part.get('type')!r}; only text is supported")
    return "\n".join(part["text"] for part in parts)


def main() -> None:
    if not getattr(sys.flags, "safe_path", False):
        sys.path.pop(0)  # this folder: its mcp.py is not what verifiers means by `mcp`
    # What the package prints goes to the log: the lines are for us alone.
    out = os.dup(1)
    os.dup2(2, 1)
    bridge = Bridge(out, sys.argv[1], json.loads(sys.argv[2]))
    asyncio.run(bridge.serve())


if __name__ == "__main__":
    main()
