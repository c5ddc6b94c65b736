"""How tool calls are written in text: one class per format.

| name   | a call                                                        | who shows tools and results      |
|--------|---------------------------------------------------------------|----------------------------------|
| hermes | `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`    | the chat template                |
| react  | `Action: NAME`, then `Action Input: TEXT or JSON object`      | the format, in ordinary messages |
| none   | there are none: all text is content                           | nobody                           |
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

from ..envs import AssistantMessage, ToolCall, ToolSpec
from ..envs.message import BadToolCall

CUT = "the answer was cut by its length before this call ended: say less, or do less at once"
"""What is wrong with the last call of an answer that was cut."""
MAX_DEPTH = 32
"""Nesting of arguments. Deeper ones would overflow the stack of whoever walks them later."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Parsed:
    """What an answer's text says."""

    content: str
    """The text outside the calls."""
    tool_calls: tuple[ToolCall, ...] = ()
    bad_calls: tuple[BadToolCall, ...] = ()


class ToolFormat(Protocol):
    """One way to write tool calls. `parse(render(message))` gives the message's calls and content back."""

    name: str
    is_native: bool
    """The chat template shows tools, calls and results. If not, the format does, in ordinary messages."""

    def parse(
        self, text: str, tools: Sequence[ToolSpec], *, first_call: int = 0, is_cut: bool = False
    ) -> Parsed:
        """Never raises: what cannot be parsed is a `BadToolCall`. Call ids count from `first_call`.

        `is_cut`: the answer was cut by its length. A call that it may have cut is bad: half of
        `rm -rf /tmp/old` is another command.
        """
        ...

    def render(self, message: AssistantMessage) -> str:
        """The text that a policy would have to sample to say this (its reasoning aside)."""
        ...

    def describe(self, tools: Sequence[ToolSpec]) -> str:
        """What the model is told about its tools; "" where the chat template does it."""
        ...

    def result(self, name: str, content: str) -> str:
        """A tool's answer as the text of a user message, for formats that are not native."""
        ...


def tool_format(name: str) -> ToolFormat:
    """The format of that name.

    >>> tool_format("hermes").name
    'hermes'
    """
    formats: dict[str, ToolFormat] = {"hermes": Hermes(), "react": React(), "none": NoTools()}
    if name not in formats:
        raise ValueError(f"tool format {name!r} is unknown; use one of {', '.join(sorted(formats))}")
    return formats[name]


class NoTools:
    """All text is content."""

    name = "none"
    is_native = False

    def parse(
        self, text: str, tools: Sequence[ToolSpec], *, first_call: int = 0, is_cut: bool = False
    ) -> Parsed:
        return Parsed(content=text)

    def render(self, message: AssistantMessage) -> str:
        if message.tool_calls:
            name = message.tool_calls[0].name
            raise ValueError(f"format 'none' cannot call {name!r}; use 'hermes' or 'react'")
        return message.content

    def describe(self, tools: Sequence[ToolSpec]) -> str:
        return ""

    def result(self, name: str, content: str) -> str:
        return content


class Hermes:
    """Qwen 2.5, Qwen 3 and Hermes models.

    >>> Hermes().parse('<tool_call>{"name": "f", "arguments": {"x": 1}}</tool_call>', ()).tool_calls[0].name
    'f'
    """

    name = "hermes"
    is_native = True
    _block = re.compile(r"<tool_call>(.*?)(</tool_call>|(?=<tool_call>)|\Z)", re.DOTALL)

    def parse(
        self, text: str, tools: Sequence[ToolSpec], *, first_call: int = 0, is_cut: bool = False
    ) -> Parsed:
        if "<tool_call>" not in text:
            return Parsed(content=text.strip())
        calls: list[ToolCall] = []
        bad: list[BadToolCall] = []
        for block in self._block.finditer(text):
            try:
                if not block[2]:
                    raise Malformed("<tool_call> is not closed by </tool_call>")
                calls.append(_hermes_call(block[1], first_call + len(calls)))
            except Malformed as error:
                bad.append(BadToolCall(text=block[0], error=str(error)))
        content = self._block.sub("", text).strip()
        return Parsed(content=content, tool_calls=tuple(calls), bad_calls=tuple(bad))

    def render(self, message: AssistantMessage) -> str:
        parts = [message.content] if message.content else []
        for call in message.tool_calls:
            body = json.dumps({"name": call.name, "arguments": dict(call.arguments)}, ensure_ascii=False)
            if "tool_call>" in body:  # inside a string, it would end the block
                body = body.replace("<", "\\u003c")
            parts.append(f"<tool_call>\n{body}\n</tool_call>")
        return "\n".join(parts)

    def describe(self, tools: Sequence[ToolSpec]) -> str:
        return ""

    def result(self, name: str, content: str) -> str:
        return content


class React:
    r"""Plain text, for models without a tool format of their own.

    >>> tools = [ToolSpec(name="add", parameters={"properties": {"sum": {"type": "string"}}})]
    >>> React().parse("I add.\nAction: add\nAction Input: 1 + 1", tools).tool_calls[0].arguments
    {'sum': '1 + 1'}
    """

    name = "react"
    is_native = False
    _action = re.compile(r"^Action:[ \t]*(.*)$", re.MULTILINE)
    _end = re.compile(r"^(?:Observation|Thought|Action):", re.MULTILINE)
    _input = re.compile(r"\s*^Action Input:[ \t]*", re.MULTILINE)

    def parse(
        self, text: str, tools: Sequence[ToolSpec], *, first_call: int = 0, is_cut: bool = False
    ) -> Parsed:
        calls: list[ToolCall] = []
        bad: list[BadToolCall] = []
        action = self._action.search(text)
        content = text if action is None else text[: action.start()]
        while action is not None:
            end = self._end.search(text, action.end())
            stop = len(text) if end is None else end.start()
            try:
                if is_cut and end is None:
                    raise Malformed(CUT)
                arguments = self._arguments(action[1].strip(), text[action.end() : stop], tools)
                calls.append(_call(first_call + len(calls), action[1].strip(), arguments))
            except Malformed as error:
                bad.append(BadToolCall(text=text[action.start() : stop], error=str(error)))
            # What stands behind an invented "Observation:" is the model talking to itself.
            talks_to_itself = end is not None and end[0] == "Observation:"
            action = None if talks_to_itself else self._action.search(text, stop)
        return Parsed(content=content.strip(), tool_calls=tuple(calls), bad_calls=tuple(bad))

    def _arguments(self, name: str, rest: str, tools: Sequence[ToolSpec]) -> dict[str, Any]:
        found = self._input.match(rest)
        if found is None:
            raise Malformed("'Action Input:' is missing on the line after 'Action:'")
        value = rest[found.end() :].strip()
        try:
            return json_object(value)
        except Malformed:
            if value.startswith("{") and not _takes_one(name, tools):
                raise
        parameter, kind = _only_parameter(name, tools)
        return {parameter: value if kind == "string" else _json_or_text(value)}

    def render(self, message: AssistantMessage) -> str:
        parts = [message.content] if message.content else []
        for call in message.tool_calls:
            arguments = json.dumps(dict(call.arguments), ensure_ascii=False)
            parts.append(f"Action: {call.name}\nAction Input: {arguments}")
        return "\n".join(parts)

    def describe(self, tools: Sequence[ToolSpec]) -> str:
        if not tools:
            return ""
        lines = ["You can use these tools:"]
        for tool in tools:
            schema = json.dumps(tool.parameters.get("properties", {}), ensure_ascii=False)
            lines.append(f"- {tool.name}: {tool.description} Arguments: {schema}")
        lines += [
            "To use one, write",
            "Action: the tool's name",
            "Action Input: its arguments as a JSON object",
            "and stop: its answer comes back as an Observation.",
        ]
        return "\n".join(lines)

    def result(self, name: str, content: str) -> str:
        return f"Observation: {content}"


class Malformed(Exception):
    """Why a call could not be parsed."""


def _call(number: int, name: str, arguments: dict[str, Any]) -> ToolCall:
    if not name:
        raise Malformed("the call names no tool")
    # Nine letters and digits: Mistral's chat templates refuse every other shape.
    return ToolCall(id=f"call{number:05d}", name=name, arguments=arguments)


def _hermes_call(body: str, number: int) -> ToolCall:
    call = json_object(body)
    name, arguments = call.get("name"), call.get("arguments")
    if not isinstance(name, str):
        raise Malformed(f'"name" must be a string, not {type(name).__name__}')
    if not isinstance(arguments, dict):
        raise Malformed(f'"arguments" must be an object, not {type(arguments).__name__}')
    return _call(number, name, cast(dict[str, Any], arguments))


def json_object(text: str) -> dict[str, Any]:
    """Arguments as a model wrote them. Raises `Malformed`."""
    value = _json(text)
    if not isinstance(value, dict):
        raise Malformed(f"must be a JSON object, not {type(value).__name__}")
    return cast(dict[str, Any], value)


def _json(text: str) -> Any:
    try:
        value: Any = json.loads(text)
        # Python reads NaN, 1e999 and halves of surrogate pairs, and later breaks on storing them.
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise Malformed(f"not valid JSON: {error}") from None
    if _depth_over(value, MAX_DEPTH):
        raise Malformed(f"nested deeper than {MAX_DEPTH} levels")
    return value


def _depth_over(value: object, limit: int) -> bool:
    if isinstance(value, dict):
        inner = list(cast(dict[str, object], value).values())
    elif isinstance(value, list):
        inner = cast(list[object], value)
    else:
        return False
    return limit == 0 or any(_depth_over(item, limit - 1) for item in inner)


def _takes_one(name: str, tools: Sequence[ToolSpec]) -> bool:
    return any(tool.name == name and len(tool.parameters.get("properties", {})) == 1 for tool in tools)


def _only_parameter(name: str, tools: Sequence[ToolSpec]) -> tuple[str, str]:
    """(name, JSON type) of the one argument that the tool takes."""
    tool = next((tool for tool in tools if tool.name == name), None)
    if tool is None:
        known = ", ".join(tool.name for tool in tools) or "none"
        raise Malformed(f"there is no tool {name!r}; the tools are: {known}")
    properties: dict[str, dict[str, Any]] = dict(tool.parameters.get("properties", {}))
    if len(properties) != 1:
        raise Malformed(f"{name} takes {len(properties)} arguments: give them as a JSON object")
    parameter, schema = properties.popitem()
    return parameter, str(schema.get("type", ""))


def _json_or_text(value: str) -> Any:
    """What a bare `5` means for a parameter that is not a string."""
    try:
        return _json(value)
    except Malformed:
        return value
