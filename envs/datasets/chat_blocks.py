"""Messages made of blocks, as Anthropic's API and Bedrock's Converse write them, in the OpenAI chat form."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic_core import from_json

from .json_kinds import is_list, is_object
from .log_entry import Unreadable, as_list, as_object, within

Message = dict[str, Any]


def messages_of(body: Mapping[str, Any]) -> list[Message]:
    """`system` and `messages` of a request.

    >>> messages_of({"system": "Be brief.", "messages": [{"role": "user", "content": [{"text": "hi"}]}]})
    [{'role': 'system', 'content': 'Be brief.'}, {'role': 'user', 'content': 'hi'}]
    """
    found: list[Message] = []
    if body.get("system"):
        with within("system"):
            found.append({"role": "system", "content": _text(body["system"])})
    for number, each in enumerate(as_list(body.get("messages"))):
        with within(f"messages[{number}]"):
            message = as_object(each)
            found += from_blocks(message.get("role", ""), message.get("content"))
    return found


def from_blocks(role: Any, content: Any) -> Iterator[Message]:
    """One message; its tool results, which are messages of their own, before it."""
    if isinstance(content, str):
        yield {"role": role, "content": content}
        return
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[dict[str, Any]] = []
    results: list[Message] = []
    with within("content"):
        blocks = _blocks(content)
    for number, block in enumerate(blocks):
        with within(f"content[{number}]"):
            match block:
                case {"toolUse": call} | {"type": "tool_use", **call}:
                    calls.append(_call(as_object(call)))
                case {"toolResult": result} | {"type": "tool_result", **result}:
                    results.append(_result(as_object(result)))
                case {"reasoningContent": {"reasoningText": {"text": str(thought)}}}:
                    thoughts.append(thought)
                case {"type": "thinking", "thinking": str(thought)}:
                    thoughts.append(thought)
                case {"text": str(text)}:
                    texts.append(text)
                case {"cachePoint": _} | {"type": "redacted_thinking"} | {"reasoningContent": _}:
                    pass
                case _:
                    raise Unreadable(f"a block of {_kind(block)}; only texts and tools are read")
    yield from results
    if texts or calls or not results:
        message: Message = {"role": role, "content": "".join(texts)}
        message |= {"reasoning_content": "".join(thoughts)} if thoughts else {}
        yield message | ({"tool_calls": calls} if calls else {})


def tools_of(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The tools of a request, in the OpenAI form."""
    field, listed = "tools", body.get("tools")
    if body.get("toolConfig"):
        with within("toolConfig"):
            config = as_object(body["toolConfig"])
        if config.get("tools"):
            field, listed = "toolConfig.tools", config["tools"]
    with within(field):
        return [tool for number, each in enumerate(as_list(listed or None)) for tool in _tool(number, each)]


def from_stream(events: Iterable[Any]) -> list[dict[str, Any]]:
    """The blocks of an answer that was logged as the events of its stream."""
    blocks: dict[int, dict[str, Any]] = {}
    inputs: dict[int, str] = {}
    for number, event in enumerate(events):
        with within(f"[{number}]"):
            _take(event, blocks, inputs)
    for index, text in inputs.items():
        block = blocks[index]
        as_object(block.get("toolUse", block))["input"] = _arguments(text or "{}")
    return [blocks[index] for index in sorted(blocks)]


def _take(event: Any, blocks: dict[int, dict[str, Any]], inputs: dict[int, str]) -> None:
    match event:
        case {"type": "content_block_start", "index": int(index), "content_block": block}:
            blocks[index] = dict(as_object(block))
        case {"contentBlockStart": {"contentBlockIndex": int(index), "start": block}}:
            blocks[index] = {name: dict(as_object(value)) for name, value in as_object(block).items()}
        case {"type": "content_block_delta", "index": int(index), "delta": delta}:
            _extend(blocks.setdefault(index, {}), inputs, index, delta)
        case {"contentBlockDelta": {"contentBlockIndex": int(index), "delta": delta}}:
            _extend(blocks.setdefault(index, {}), inputs, index, delta)
        case {"generation": str(text)} | {"outputText": str(text)}:
            _append(blocks.setdefault(0, {}), "text", text)
        case _:
            pass  # a start, a stop, or the usage


def _extend(block: dict[str, Any], inputs: dict[int, str], index: int, delta: Any) -> None:
    match delta:
        case {"text": str(text)}:
            _append(block, "text", text)
        case {"thinking": str(text)}:
            _append(block, "thinking", text)
        case {"partial_json": str(text)} | {"toolUse": {"input": str(text)}}:
            inputs[index] = inputs.get(index, "") + text
        case {"reasoningContent": {"text": str(text)}}:
            said = as_object(block.setdefault("reasoningContent", {}))
            _append(as_object(said.setdefault("reasoningText", {})), "text", text)
        case _:
            pass  # a signature


def _append(block: dict[str, Any], name: str, text: str) -> None:
    before = block.get(name, "")
    if not isinstance(before, str):
        raise Unreadable(f"{before!r:.60} is no text", name)
    block[name] = before + text


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": call.get("toolUseId") or call.get("id"),
        "type": "function",
        "function": {"name": call.get("name"), "arguments": _json(call.get("input") or {})},
    }


def _result(result: Mapping[str, Any]) -> Message:
    name = result.get("toolUseId") or result.get("tool_use_id")
    with within("content"):
        text = _text(result.get("content") or "")
    return {"role": "tool", "tool_call_id": name, "content": text}


def _tool(number: int, tool: Any) -> Iterator[dict[str, Any]]:
    match tool:
        case {"toolSpec": {"name": name, "inputSchema": {"json": schema}, **rest}}:
            pass
        case {"name": name, "input_schema": schema, **rest}:
            pass
        case {"type": "function", "function": _}:
            yield dict(tool)
            return
        case {"cachePoint": _}:
            return
        case _:
            why = f"{tool!r:.60} is no tool with a schema that is known"
            raise Unreadable(why, f"[{number}]")
    function = {"name": name, "description": rest.get("description") or "", "parameters": schema}
    yield {"type": "function", "function": function}


def _blocks(content: Any) -> list[dict[str, Any]]:
    if not is_list(content):
        raise Unreadable(f"{content!r:.60} is neither a text nor a list of blocks")
    for number, block in enumerate(content):
        if not is_object(block):
            raise Unreadable(f"{block!r:.60} is no block", f"[{number}]")
    return content


def _text(content: Any) -> str:
    """A text, or blocks of nothing else; JSON as its text."""
    if isinstance(content, str):
        return content
    texts: list[str] = []
    for number, block in enumerate(_blocks(content)):
        match block:
            case {"text": str(text)}:
                texts.append(text)
            case {"json": value}:
                texts.append(_json(value))
            case {"cachePoint": _}:
                pass
            case _:
                raise Unreadable(f"a block of {_kind(block)} where only text is read", f"[{number}]")
    return "\n".join(texts)


def _kind(block: Mapping[str, Any]) -> str:
    return f"{block.get('type') or ', '.join(block) or 'nothing'}"


def _json(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise Unreadable(f"{value!r:.60} holds a number beyond 1.8e308") from error


def _arguments(text: str) -> Any:
    try:
        return from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise Unreadable(f"the arguments {text!r:.60} of a call are no JSON: {error}") from error
