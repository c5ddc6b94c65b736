"""One entry of Amazon Bedrock's model invocation log."""

from collections.abc import Mapping
from typing import Any

from .chat_blocks import Message, Unreadable, from_blocks, from_stream, messages_of, tools_of
from .json_kinds import is_list, is_object
from .openai_log import message_of

KEPT = ("modelId", "operation", "timestamp", "region", "requestMetadata")
"""What of an entry becomes metadata of the row."""


def to_row(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Raises `Unreadable` for what is no conversation: an error, an embedding, a body that lies elsewhere."""
    if entry.get("schemaType") != "ModelInvocationLog":
        raise Unreadable("no entry of a model invocation log")
    if entry.get("errorCode"):
        raise Unreadable(f"the call failed: {entry['errorCode']}")
    body = _body(entry.get("input"), "input")
    messages, tools = _asked(body), tools_of(body)
    row: dict[str, Any] = {"id": entry["requestId"]} if entry.get("requestId") else {}
    row |= {"messages": messages} | ({"tools": tools} if tools else {})
    answer = _answer(_body(entry.get("output"), "output"))
    row |= {"response": answer} if answer else {}
    return row | {name: entry[name] for name in KEPT if entry.get(name)}


def _body(side: Any, name: str) -> Any:
    if is_object(side) and f"{name}BodyJson" in side:
        return side[f"{name}BodyJson"]
    if is_object(side) and side.get(f"{name}BodyS3Path"):
        raise Unreadable(f"the {name} lies in an object of its own, as those over 100 kB do")
    raise Unreadable(f"there is no {name}BodyJson")


def _asked(body: Any) -> list[Message]:
    """The conversation in a request: messages, or the one text of older models."""
    if not is_object(body):
        raise Unreadable("the input is no object")
    if is_list(body.get("messages")):
        if any(is_object(each) and each.get("role") in ("system", "tool") for each in body["messages"]):
            return [message_of(each) for each in body["messages"]]  # a model with OpenAI's own API
        return messages_of(body)
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
            return message_of(message)
        case {"generation": str(text)} | {"completion": str(text)}:
            return {"role": "assistant", "content": text}
        case {"results": [{"outputText": str(text)}, *_]} | {"outputs": [{"text": str(text)}, *_]}:
            return {"role": "assistant", "content": text}
        case _:
            return None


def _said(blocks: list[Any]) -> Message:
    *_, message = from_blocks("assistant", blocks)
    return message
