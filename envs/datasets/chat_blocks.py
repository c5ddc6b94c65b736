"""Messages made of blocks, as Anthropic's API and Bedrock's Converse write them, in the OpenAI chat form."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic_core import from_json

from .json_kinds import is_list, is_object

Message = dict[str, Any]


class Unreadable(ValueError):
    """A log entry that is no conversation of texts and tool calls; the text says why."""


def messages_of(body: Mapping[str, Any]) -> list[Message]:
    """`system` and `messages` of a request.

    >>> messages_of({"system": "Be brief.", "messages": [{"role": "user", "content": [{"text": "hi"}]}]})
    [{'role': 'system', 'content': 'Be brief.'}, {'role': 'user', 'content': 'hi'}]
    """
    system = body.get("system")
    found: list[Message] = [{"role": "system", "content": _text(system)}] if system else []
    for message in body.get("messages") or ():
        found += from_blocks(message.get("role", ""), message.get("content"))
    return found


def from_blocks(role: str, content: Any) -> Iterator[Message]:
    """One message; its tool results, which are messages of their own, before it."""
    if isinstance(content, str):
        yield {"role": role, "content": content}
        return
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[dict[str, Any]] = []
    results: list[Message] = []
    for block in _blocks(content):
        match block:
            case {"toolUse": call} | {"type": "tool_use", **call}:
                calls.append(_call(call))
            case {"toolResult": result} | {"type": "tool_result", **result}:
                results.append(_result(result))
            case {"reasoningContent": {"reasoningText": {"text": str(thought)}}}:
                thoughts.append(thought)
            case {"type": "thinking", "thinking": str(thought)}:
                thoughts.append(thought)
            case {"text": str(text)}:
                texts.append(text)
            case {"cachePoint": _} | {"type": "redacted_thinking"} | {"reasoningContent": _}:
                pass
            case _:
                raise Unreadable(
                    f"a block of {block.get('type') or ', '.join(block)}; only texts and tools are read"
                )
    yield from results
    if texts or calls or not results:
        message: Message = {"role": role, "content": "".join(texts)}
        message |= {"reasoning_content": "".join(thoughts)} if thoughts else {}
        yield message | ({"tool_calls": calls} if calls else {})


def tools_of(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The tools of a request, in the OpenAI form."""
    config: Mapping[str, Any] = body.get("toolConfig") or {}
    tools: Iterable[Mapping[str, Any]] = config.get("tools") or body.get("tools") or ()
    return [tool for each in tools for tool in _tool(each)]


def from_stream(events: Iterable[Any]) -> list[dict[str, Any]]:
    """The blocks of an answer that was logged as the events of its stream."""
    blocks: dict[int, dict[str, Any]] = {}
    inputs: dict[int, str] = {}
    for event in events:
        match event:
            case {"type": "content_block_start", "index": int(index), "content_block": block} if is_object(
                block
            ):
                blocks[index] = dict(block)
            case {"contentBlockStart": {"contentBlockIndex": int(index), "start": block}} if is_object(block):
                blocks[index] = {name: dict(value) for name, value in block.items()}
            case {"type": "content_block_delta", "index": int(index), "delta": delta}:
                _extend(blocks.setdefault(index, {}), inputs, index, delta)
            case {"contentBlockDelta": {"contentBlockIndex": int(index), "delta": delta}}:
                _extend(blocks.setdefault(index, {}), inputs, index, delta)
            case {"generation": str(text)} | {"outputText": str(text)}:
                _extend(blocks.setdefault(0, {}), inputs, 0, {"text": text})
            case _:
                pass  # a start, a stop, or the usage
    for index, text in inputs.items():
        block = blocks[index]
        block.get("toolUse", block)["input"] = _object(text or "{}")
    return [blocks[index] for index in sorted(blocks)]


def _extend(block: dict[str, Any], inputs: dict[int, str], index: int, delta: Any) -> None:
    match delta:
        case {"text": str(text)}:
            block["text"] = block.get("text", "") + text
        case {"thinking": str(text)}:
            block["thinking"] = block.get("thinking", "") + text
        case {"partial_json": str(text)} | {"toolUse": {"input": str(text)}}:
            inputs[index] = inputs.get(index, "") + text
        case {"reasoningContent": {"text": str(text)}}:
            before = block.get("reasoningContent", {}).get("reasoningText", {}).get("text", "")
            block["reasoningContent"] = {"reasoningText": {"text": before + text}}
        case _:
            pass  # a signature


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    arguments = json.dumps(call.get("input") or {}, ensure_ascii=False)
    return {
        "id": call.get("toolUseId") or call.get("id"),
        "type": "function",
        "function": {"name": call.get("name"), "arguments": arguments},
    }


def _result(result: Mapping[str, Any]) -> Message:
    name = result.get("toolUseId") or result.get("tool_use_id")
    return {"role": "tool", "tool_call_id": name, "content": _text(result.get("content") or "")}


def _tool(tool: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
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
            raise Unreadable(f"a tool with {', '.join(tool)}; it has no schema that is known")
    function = {"name": name, "description": rest.get("description") or "", "parameters": schema}
    yield {"type": "function", "function": function}


def _blocks(content: Any) -> list[dict[str, Any]]:
    if not is_list(content) or not all(map(is_object, content)):
        raise Unreadable(f"content {content!r:.60} is neither a text nor a list of blocks")
    return content


def _text(content: Any) -> str:
    """A text, or blocks of nothing else; JSON as its text."""
    if isinstance(content, str):
        return content
    texts: list[str] = []
    for block in _blocks(content):
        match block:
            case {"text": str(text)}:
                texts.append(text)
            case {"json": value}:
                texts.append(json.dumps(value, ensure_ascii=False))
            case {"cachePoint": _}:
                pass
            case _:
                raise Unreadable(f"a block of {', '.join(block)} where only text is read")
    return "\n".join(texts)


def _object(text: str) -> Any:
    try:
        return from_json(text)
    except ValueError as error:
        raise Unreadable(f"the arguments {text!r:.60} of a call are no JSON: {error}") from error
