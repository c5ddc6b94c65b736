"""Environments behind an OpenEnv server, over its WebSocket. The server's packages stay with the server.

OpenEnv.tasks(url="http://127.0.0.1:8000", size=100)
"""

import asyncio
import json
import math
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any, ClassVar

import aiohttp

from ..budget import Budget
from ..env import Env, Observation, Step
from ..message import (
    AssistantMessage,
    BadToolCall,
    Message,
    SystemMessage,
    ToolCall,
    ToolMessage,
    ToolSpec,
    UserMessage,
)
from ..task import Task, TaskSet, seed_of
from .errors import PeerLost

TOOL = "act"
BY_POLICY = ("VALIDATION_ERROR", "EXECUTION_ERROR")
"""Errors that an action can cause; the session goes on, and the policy reads them."""


class OpenEnv(Env[Task]):
    """One session an episode. An action is a call of the tool `act`, whose schema is the server's.

    The reward is the sum of the server's; a message without a call ends the episode. Calls of one message are
    played in order. What the server makes of a wrong action is an observation; one that is gone, or full,
    fails the episode.
    """

    reward_range: ClassVar[tuple[float, float]] = (-math.inf, math.inf)
    """A server may reward as it likes; a subclass that knows better says so."""
    budget: Budget = Budget(max_turns=32)
    timeout_s: ClassVar[float] = 60.0
    """Seconds for one answer of the server."""

    def __init__(self) -> None:
        self._open = AsyncExitStack()
        self._url = ""
        self._socket: aiohttp.ClientWebSocketResponse | None = None

    @classmethod
    def tasks(cls, *, url: str, size: int = 100, seed: int = 0, instructions: str = "") -> TaskSet:
        """`size` episodes on the server, each with a seed of its own, if it takes one. Siblings share it."""
        opening: tuple[Message, ...] = (SystemMessage(instructions),) if instructions else ()
        return TaskSet(
            Task(
                id=f"{seed}-{number}",
                messages=opening,
                private={"url": url.rstrip("/"), "seed": seed_of(f"{seed}/{number}")},
            )
            for number in range(size)
        )

    def describe(self, observation: Mapping[str, Any]) -> str:
        """An observation as the policy reads it: as JSON, unless a subclass knows better."""
        return json.dumps(observation, ensure_ascii=False)

    async def reset(self, task: Task, *, seed: int) -> Observation:
        """Open a session; the action's schema becomes a tool."""
        self._url = task.private["url"]
        timeout = aiohttp.ClientTimeout(total=self.timeout_s)
        try:
            client = await self._open.enter_async_context(aiohttp.ClientSession(timeout=timeout))
            async with client.get(f"{self._url}/schema") as reply:
                reply.raise_for_status()
                schema = (await reply.json())["action"]
            self._socket = await self._open.enter_async_context(
                client.ws_connect(f"{self._url}/ws", max_msg_size=1 << 24)
            )
        except (aiohttp.ClientError, TimeoutError) as error:
            raise PeerLost(f"OpenEnv server {self._url}: {error or type(error).__name__}") from error
        first = await self._ask("reset", {"seed": task.private.get("seed", seed)})
        seen = UserMessage(self.describe(first["observation"]))
        return Observation(messages=(*task.messages, seen), tools=(_tool(schema),))

    async def step(self, action: AssistantMessage) -> Step:
        """Play the calls of a message until the server says that it is over."""
        if not action.tool_calls and not action.bad_calls:
            return Step(Observation(), 0.0, True, False, {})
        messages: list[ToolMessage] = []
        reward, is_over = 0.0, False
        for call in action.tool_calls:
            told, earned, is_over = await self._act(call)
            messages.append(told)
            reward += earned
            if is_over:
                break
        messages += map(_reject, action.bad_calls)
        return Step(Observation(messages=tuple(messages)), reward, is_over, False, {})

    async def _act(self, call: ToolCall) -> tuple[ToolMessage, float, bool]:
        """(answer, reward, whether it is over)."""
        if call.name != TOOL:
            told = f"there is no tool {call.name!r}; the tool is: {TOOL}"
            return ToolMessage(told, call_id=call.id, name=call.name, is_error=True), 0.0, False
        data = await self._ask("step", dict(call.arguments))
        if "error" in data:
            return ToolMessage(data["error"], call_id=call.id, name=call.name, is_error=True), 0.0, False
        seen = self.describe(data["observation"])
        return ToolMessage(seen, call_id=call.id, name=call.name), data.get("reward") or 0.0, data["done"]

    async def _ask(self, kind: str, data: Mapping[str, Any]) -> dict[str, Any]:
        """The server's answer; {"error": ...} for what the policy can cause."""
        assert self._socket is not None, "reset comes first"
        try:
            async with asyncio.timeout(self.timeout_s):
                await self._socket.send_json({"type": kind, "data": data})
                said = await self._socket.receive_json()
        except (aiohttp.ClientError, TimeoutError, TypeError, ConnectionError) as error:
            # TypeError: aiohttp's word for a connection that closes instead of a text.
            raise PeerLost(f"OpenEnv server {self._url}: lost in a {kind}: {error}") from error
        answer: dict[str, Any] = said["data"]
        if said["type"] != "error":
            return answer
        told = f"{answer.get('message')} {json.dumps(answer['errors']) if 'errors' in answer else ''}".strip()
        if kind == "step" and answer.get("code") in BY_POLICY:
            return {"error": told}
        raise PeerLost(f"OpenEnv server {self._url}: {answer.get('code')} in a {kind}: {told}")

    async def close(self) -> None:
        """End the session."""
        await self._open.aclose()


def _tool(schema: Mapping[str, Any]) -> ToolSpec:
    properties = {name: kind for name, kind in schema.get("properties", {}).items() if name != "metadata"}
    return ToolSpec(
        name=TOOL,
        description=schema.get("description", "").strip(),
        parameters={**schema, "type": "object", "properties": properties},
    )


def _reject(call: BadToolCall) -> ToolMessage:
    return ToolMessage(f"this tool call could not be read: {call.error}; write it again", is_error=True)
