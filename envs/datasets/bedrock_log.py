"""One entry of Amazon Bedrock's model invocation log."""

from collections.abc import Mapping
from typing import Any

from . import openai_log
from .chat_blocks import Message, from_blocks, from_stream, messages_of, tools_of
from .json_kinds import is_list, is_object
from .log_entry import Unreadable, within

KEPT = ("modelId", "operation", "timestamp", "region", "requestMetadata")
"""What of an entry becomes metadata of the row."""


def to_row(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Raises `Unreadable` for what is no conversation: an error, an embedding, a body that lies elsewhere."""
    if entry.get("schemaType") != "ModelInvocationLog":
        raise Unreadable("no entry of a model invocation log", "schemaType")
    if entry.get("errorCode"):
        raise Unreadable(f"the call failed: {entry['errorCode']}", "errorCode")
    row: dict[str, Any] = {"id": entry["requestId"]} if entry.get("requestId") else {}
    asked = _body(entry, "input")
    with within("input.inputBodyJson"):
        row["messages"] = _asked(asked)
        tools = tools_of(asked)
    row |= {"tools": tools} if tools else {}
    said = _body(entry, "output")
    with within("output.outputBodyJson"):
        answer = _answer(said)
    row |= {"response": answer} if answer else {}
    return row | {name: entry[name] for name in KEPT if entry.get(name)}


def _body(entry: Mapping[str, Any], side: str) -> Any:
    match entry.get(side):
        case {**found} if f"{side}BodyJson" in found:
            return found[f"{side}BodyJson"]
        case {**found} if found.get(f"{side}BodyS3Path"):
            raise Unreadable(f"the {side} lies in an object of its own, as those over 100 kB do", side)
        case _:
            raise Unreadable(f"there is no {side}BodyJson", side)


def _asked(body: Any) -> list[Message]:
    """The conversation in a request: messages, or the one text of older models."""
    if not is_object(body):
        raise Unreadable("the input is no object")
    if is_list(messages := body.get("messages")):
        if not any(is_object(each) and each.get("role") in ("system", "tool") for each in messages):
            return messages_of(body)
        return openai_log.messages_of(messages)  # a model with OpenAI's own API
    for name in ("prompt", "inputText"):
        if isinstance(body.get(name), str):
            return [{"role": "user", "content": body[name]}]
    raise Unreadable("the input is neither messages nor a prompt")


def _answer(body: Any) -> Message | None:
    """What the model said; None where the log does not tell."""
    if is_list(body):
        blocks = from_stream(body)
        return _said(blocks) if blocks else None
    match body:
        case {"output": {"message": {"content": blocks}}} | {"content": blocks} if is_list(blocks):
            return _said(blocks)
        case {"choices": [{"message": {**message}}, *_]}:
            return openai_log.message_of(message)
        case {"generation": str(text)} | {"completion": str(text)}:
            return {"role": "assistant", "content": text}
        case {"results": [{"outputText": str(text)}, *_]} | {"outputs": [{"text": str(text)}, *_]}:
            return {"role": "assistant", "content": text}
        case _:
            return None


def _said(blocks: list[Any]) -> Message:
    *_, message = from_blocks("assistant", blocks)
    if message["role"] != "assistant":
        raise Unreadable("an answer of tool results alone")
    return message
