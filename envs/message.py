"""Messages: the only thing that environments and policies exchange."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

from pydantic_core import from_json, to_json


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolSpec:
    """A tool as the model sees it."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=lambda: {"type": "object", "properties": {}})
    """JSON schema of the arguments object."""

    def to_openai(self) -> dict[str, Any]:
        """The entry of an OpenAI-style `tools` list."""
        function = {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}
        return {"type": "function", "function": function}


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolCall:
    """A call that could be parsed. Whether its arguments fit the tool is for the environment to say."""

    id: str
    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class BadToolCall:
    """Text that was meant as a tool call and could not be parsed: the policy's fault, answered as such."""

    text: str
    error: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """What one answer cost."""

    prompt_tokens: int = 0
    sampled_tokens: int = 0
    finish: str = "stop"
    """Why the engine stopped: "stop", or "length" when the answer was cut."""


@dataclass(frozen=True, slots=True)
class SystemMessage:
    content: str
    role: Literal["system"] = "system"


@dataclass(frozen=True, slots=True)
class UserMessage:
    content: str
    role: Literal["user"] = "user"


@dataclass(frozen=True, slots=True)
class AssistantMessage:
    """What a policy says: text, reasoning, and the tool calls that were parsed out of it."""

    content: str = ""
    reasoning: str = ""
    """Thinking that the chat format keeps apart from the answer; "" where there is none."""
    tool_calls: tuple[ToolCall, ...] = ()
    bad_calls: tuple[BadToolCall, ...] = ()
    usage: Usage | None = None
    """None where the policy has no tokens (an oracle)."""
    role: Literal["assistant"] = "assistant"


@dataclass(frozen=True, slots=True)
class ToolMessage:
    content: str
    call_id: str = ""
    name: str = ""
    is_error: bool = False
    """The call itself was wrong, or the tool says that it failed."""
    role: Literal["tool"] = "tool"


Message = SystemMessage | UserMessage | AssistantMessage | ToolMessage
M = TypeVar("M", bound=Message)


def utf8(text: str) -> str:
    r"""`text` with "?" for halves of surrogate pairs, which no tokenizer and no run file would take.

    >>> utf8("a\ud800")
    'a?'
    """
    return text.encode(errors="replace").decode()


def storable(message: M) -> M:
    """The message with `utf8` texts; a tool call that JSON in UTF-8 cannot carry becomes a bad call."""
    if not isinstance(message, AssistantMessage):
        return replace(message, content=utf8(message.content))
    calls: list[ToolCall] = []
    bad = [BadToolCall(text=utf8(call.text), error=utf8(call.error)) for call in message.bad_calls]
    for call in message.tool_calls:
        try:
            to_json((call.id, call.name))
            # "constants" and False together refuse NaN and infinities, which JSON would make null of.
            text = to_json(dict(call.arguments), inf_nan_mode="constants")
            calls.append(replace(call, arguments=from_json(text, allow_inf_nan=False)))
        except ValueError as error:
            bad.append(BadToolCall(text=utf8(f"{call.name} {call.arguments}"), error=str(error)))
    return replace(
        message,
        content=utf8(message.content),
        reasoning=utf8(message.reasoning),
        tool_calls=tuple(calls),
        bad_calls=tuple(bad),
    )


def to_openai(message: Message) -> dict[str, Any]:
    """One message in the OpenAI chat form, as chat templates and endpoints take it.

    >>> to_openai(UserMessage("hi"))
    {'role': 'user', 'content': 'hi'}
    """
    row: dict[str, Any] = {"role": message.role, "content": message.content}
    if isinstance(message, AssistantMessage):
        if message.reasoning:
            row["reasoning_content"] = message.reasoning
        if message.tool_calls:
            row["tool_calls"] = [_call_to_openai(call) for call in message.tool_calls]
    elif isinstance(message, ToolMessage):
        if message.call_id:
            row["tool_call_id"] = message.call_id
        if message.name:
            row["name"] = message.name
    return row


def _call_to_openai(call: ToolCall) -> dict[str, Any]:
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": dict(call.arguments)},
    }
