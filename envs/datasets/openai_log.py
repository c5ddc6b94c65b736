"""One request to an OpenAI-compatible endpoint, with its response."""

from collections.abc import Iterable, Mapping
from typing import Any

from .chat_blocks import Message
from .json_kinds import is_list, is_object
from .log_entry import Unreadable, as_object, within
from .row import RowMessage


def to_row(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Of {"request": ..., "response": ...}, a line of a batch, a stored completion. Raises `Unreadable`."""
    field = next((name for name in ("request", "body") if name in entry), "")
    with within(field):
        request = as_object(entry[field] if field else entry)
    if is_object(request.get("body")):
        field, request = f"{field}.body".removeprefix("."), request["body"]
    row: dict[str, Any] = {}
    name = entry.get("custom_id") or entry.get("id") or entry.get("request_id")
    row |= {"id": name} if isinstance(name, str | int) else {}
    with within(field):
        row["messages"] = _asked(request)
    row |= {"tools": request["tools"]} if request.get("tools") else {}
    answer = _answer(entry)
    row |= {"response": answer} if answer else {}
    kept = {key: request.get(key) or entry.get(key) for key in ("model", "metadata", "created")}
    return row | {key: value for key, value in kept.items() if value}


def messages_of(listed: Iterable[Any]) -> list[Message]:
    """Each as `message_of` makes it."""
    found: list[Message] = []
    for number, each in enumerate(listed):
        with within(f"messages[{number}]"):
            found.append(message_of(each))
    return found


def message_of(message: Any) -> Message:
    """The keys that a row has, without nulls; what vLLM calls `reasoning` is `reasoning_content` here."""
    message = as_object(message)
    if message.get("reasoning") and not message.get("reasoning_content"):
        message = message | {"reasoning_content": message["reasoning"]}
    found = {key: message[key] for key in RowMessage.model_fields if message.get(key) not in (None, [])}
    return found | {"content": message.get("content") or ""}


def _asked(request: Mapping[str, Any]) -> list[Message]:
    if is_list(request.get("messages")):
        return messages_of(request["messages"])
    if isinstance(request.get("prompt"), str):
        return [{"role": "user", "content": request["prompt"]}]
    raise Unreadable("the request has neither messages nor a prompt")


def _answer(entry: Mapping[str, Any]) -> Message | None:
    response: Any = entry.get("response", entry)
    status = response.get("status_code", 200) if is_object(response) else 200
    if entry.get("error"):
        raise Unreadable(f"the call failed: {entry['error']!s:.200}", "error")
    if status != 200:
        raise Unreadable(f"the call failed: {status!s:.200}", "response.status_code")
    match response["body"] if is_object(response) and "body" in response else response:
        case {"choices": [{"message": {**message}}, *_]}:
            return message_of(message)
        case {"choices": [{"text": str(text)}, *_]}:
            return {"role": "assistant", "content": text}
        case _:
            return None
