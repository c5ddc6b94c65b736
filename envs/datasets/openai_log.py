"""One request to an OpenAI-compatible endpoint, with its response."""

from collections.abc import Mapping
from typing import Any

from .chat_blocks import Message, Unreadable
from .json_kinds import is_list, is_object
from .row import RowMessage


def to_row(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Of {"request": ..., "response": ...}, a line of a batch, a stored completion. Raises `Unreadable`."""
    request = entry.get("request", entry.get("body", entry))
    request = request["body"] if is_object(request) and is_object(request.get("body")) else request
    if not is_object(request):
        raise Unreadable("the request is no object")
    row: dict[str, Any] = {}
    name = entry.get("custom_id") or entry.get("id") or entry.get("request_id")
    row |= {"id": name} if isinstance(name, str | int) else {}
    row["messages"] = _asked(request)
    row |= {"tools": request["tools"]} if request.get("tools") else {}
    answer = _answer(entry)
    row |= {"response": answer} if answer else {}
    kept = {key: request.get(key) or entry.get(key) for key in ("model", "metadata", "created")}
    return row | {key: value for key, value in kept.items() if value}


def message_of(message: Any) -> Message:
    """The keys that a row has, without nulls; what vLLM calls `reasoning` is `reasoning_content` here."""
    if not is_object(message):
        raise Unreadable(f"a message {message!r:.60} that is no object")
    if message.get("reasoning") and not message.get("reasoning_content"):
        message = message | {"reasoning_content": message["reasoning"]}
    found = {key: message[key] for key in RowMessage.model_fields if message.get(key) not in (None, [])}
    return found | {"content": message.get("content") or ""}


def _asked(request: Mapping[str, Any]) -> list[Message]:
    if is_list(request.get("messages")):
        return [message_of(each) for each in request["messages"]]
    if isinstance(request.get("prompt"), str):
        return [{"role": "user", "content": request["prompt"]}]
    raise Unreadable("the request has neither messages nor a prompt")


def _answer(entry: Mapping[str, Any]) -> Message | None:
    response: Any = entry.get("response", entry)
    status = response.get("status_code", 200) if is_object(response) else 200
    if entry.get("error") or status != 200:
        raise Unreadable(f"the call failed: {entry.get('error') or status}")
    match response["body"] if is_object(response) and "body" in response else response:
        case {"choices": [{"message": {**message}}, *_]}:
            return message_of(message)
        case {"choices": [{"text": str(text)}, *_]}:
            return {"role": "assistant", "content": text}
        case _:
            return None
