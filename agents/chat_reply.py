"""What a chat endpoint answered, as a message. Servers differ in what they leave out."""

import json
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from ..envs import AssistantMessage, ToolCall, ToolSpec
from ..envs.message import BadToolCall, Usage, utf8
from .formats import CUT, Malformed, ToolFormat, json_object

_Text = Annotated[str, AfterValidator(utf8)]


class _Function(BaseModel):
    name: _Text | None = None
    arguments: str | dict[str, Any] | None = None
    """As it came: what has no UTF-8 form makes a bad call, not another call."""


class _Call(BaseModel):
    id: _Text | None = None
    function: _Function


class _Part(BaseModel):
    text: str | None = None


class _Said(BaseModel):
    content: str | list[_Part] | None = None
    reasoning_content: _Text | None = None
    reasoning: _Text | None = None
    tool_calls: list[_Call] | None = None


class _Choice(BaseModel):
    message: _Said
    finish_reason: str | None = None


class _Usage(BaseModel):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Reply(BaseModel):
    model_config = ConfigDict(hide_input_in_errors=True)  # pydantic shows halves of it, also of a key

    choices: list[_Choice] = Field(min_length=1)
    usage: _Usage | None = None


def read_reply(
    body: bytes, tools: Sequence[ToolSpec], format: ToolFormat | None, *, first_call: int
) -> AssistantMessage:
    """The message in a chat completion. Raises `ValueError` or `RecursionError` if it is none.

    With a `format`, calls are also looked for in the text. What is not a call is a `BadToolCall`.
    """
    # Not model_validate_json: it refuses halves of surrogate pairs, and models sample them.
    reply = _Reply.model_validate(json.loads(body))
    choice = reply.choices[0]
    said, is_cut = choice.message, choice.finish_reason == "length"
    content, calls, bad = _content(said), list[ToolCall](), list[BadToolCall]()
    native = said.tool_calls or []
    for call in native:
        try:
            calls.append(_call(call, first_call + len(calls), is_cut and call is native[-1]))
        except Malformed as error:
            bad.append(BadToolCall(text=_shown(call.function), error=str(error)))
    if format is not None and not native:
        parsed = format.parse(content, tools, first_call=first_call, is_cut=is_cut)
        content, calls, bad = parsed.content, list(parsed.tool_calls), list(parsed.bad_calls)
    counted = reply.usage or _Usage()
    usage = Usage(
        prompt_tokens=max(0, counted.prompt_tokens or 0),
        sampled_tokens=max(0, counted.completion_tokens or 0),
        finish="length" if is_cut else "stop",
    )
    reasoning = said.reasoning_content or said.reasoning or ""
    return AssistantMessage(content, reasoning, tuple(calls), tuple(bad), usage)


def _content(said: _Said) -> str:
    if isinstance(said.content, list):
        return utf8("".join(part.text or "" for part in said.content))
    return utf8(said.content or "")


def _call(call: _Call, number: int, is_cut: bool) -> ToolCall:
    """Some servers close what was cut, so that half a call looks whole."""
    name, given = call.function.name, call.function.arguments
    if is_cut:
        raise Malformed(CUT)
    if not name:
        raise Malformed("the call names no tool")
    arguments = json_object(given if isinstance(given, str) and given else json.dumps(given or {}))
    return ToolCall(id=call.id or f"call{number:05d}", name=name, arguments=arguments)


def _shown(function: _Function) -> str:
    given = function.arguments
    text = given if isinstance(given, str) else json.dumps(given or {})
    return utf8(text)
