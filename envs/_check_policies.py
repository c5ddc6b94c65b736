"""The policies that `check_env` plays with, beside an environment's oracle."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from .message import AssistantMessage, Message, ToolCall, ToolSpec
from .policy import Policy
from .scripted import ScriptedPolicy
from .task import Task


def nothing(task: Task) -> Policy:
    """Says nothing, and calls no tool."""
    return ScriptedPolicy([])


@dataclass(frozen=True, slots=True)
class Yielding:
    """Lets the other episode run before each answer."""

    policy: Policy

    async def __call__(self, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> AssistantMessage:
        await asyncio.sleep(0)
        return await self.policy(messages, tools)


class Breaking:
    """An engine that is down."""

    async def __call__(self, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> AssistantMessage:
        raise ConnectionError("the engine is down")


@dataclass(frozen=True, slots=True)
class Waiting:
    """An engine that never answers."""

    started: asyncio.Event

    async def __call__(self, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> AssistantMessage:
        self.started.set()
        return await asyncio.Future[AssistantMessage]()


class Probing:
    """First calls every tool wrongly, to read its errors; then does what the oracle does."""

    def __init__(self, oracle: Policy) -> None:
        self._oracle = oracle
        self._has_probed = False

    async def __call__(self, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> AssistantMessage:
        if self._has_probed or not tools:
            return await self._oracle(messages, tools)
        self._has_probed = True
        calls = [
            ToolCall(id=f"probe-{tool.name}-{number}", name=tool.name, arguments=arguments)
            for tool in tools
            for number, arguments in enumerate(({}, dict.fromkeys(tool.parameters.get("properties", {}), "")))
        ]
        return AssistantMessage(tool_calls=tuple(calls))
