"""What a row must look like. `Row` proves it; where it refuses, these rules say why, for a person.

One rule is one function, and its name is the rule's. It takes the row as JSON gives it, and yields what it
finds.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from .json_kinds import decoded, is_list, is_object
from .row import Role, RowCall, RowMessage, RowTool, TextPart

ROLES = get_args(Role)
KEYS = tuple(RowMessage.model_fields)


class Found(NamedTuple):
    """A broken rule, in a row."""

    rule: str
    field: str
    message: str


class Malformed(ValueError):
    """A row is none, with every rule that it breaks."""

    def __init__(self, found: list[Found]) -> None:
        super().__init__(found[0].message)
        self.found = found


ShapeRule = Callable[[Mapping[str, Any]], Iterator[tuple[str, str]]]
"""Yields (field, message)."""


def conversation(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    field = "messages" if row.get("messages") is not None else "prompt"
    value = row.get(field)
    if value is None:
        cure = (
            "write a list of messages, or `prompt`, or name its field (--prompt, in a recipe `data.prompt`)"
        )
        yield "messages", f"neither `messages` nor `prompt` is there; {cure}"
    elif not value:
        yield field, f"{value!r} says nothing; write at least one user message"
    elif field == "messages" and not is_list(decoded(value)):
        yield field, f"{value!r:.60} is no list; write [{{'role': 'user', 'content': ...}}]"
    elif field == "prompt" and not isinstance(value, str | list):
        yield field, f"{value!r:.60} is neither a text nor a list of messages; write one of them"


def message_keys(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for field, message in _messages(row):
        if not is_object(message):
            yield field, f"{message!r:.60} is no object; write {{'role': ..., 'content': ...}}"
            continue
        for key in message:
            if key not in KEYS:
                yield f"{field}.{key}", f"no such key; a message has {', '.join(KEYS)}; leave {key!r} out"
        for key in ("name", "reasoning_content", "tool_call_id"):
            if not isinstance(message.get(key, ""), str | None):
                yield f"{field}.{key}", f"{message[key]!r:.60} is no text; write one, or leave it out"


def roles(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for field, message in _objects(row):
        if "role" not in message:
            yield f"{field}.role", f"is not there; write one of {', '.join(ROLES)}"
        elif message["role"] not in ROLES:
            yield f"{field}.role", f"{message['role']!r:.60} is no role; write one of {', '.join(ROLES)}"


def content_types(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for field, message in _objects(row):
        content = message.get("content")
        if content is None or isinstance(content, str):
            continue
        if not is_list(content):
            yield f"{field}.content", f"{content!r:.60} is neither a text nor a list of parts; write a text"
            continue
        for number, part in enumerate(content):
            if not _is(TextPart, part):
                kind = part.get("type", "?") if is_object(part) else type(part).__name__
                cure = "write {'type': 'text', 'text': ...}; images and sounds are not taken"
                yield f"{field}.content[{number}]", f"a part of type {kind!r}; {cure}"


def call_shape(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    wanted = "{'id': ..., 'type': 'function', 'function': {'name': ..., 'arguments': '{...}'}}"
    for field, message in _objects(row):
        calls = message.get("tool_calls")
        if calls is None:
            continue
        if not is_list(calls):
            yield f"{field}.tool_calls", f"{calls!r:.60} is no list; write a list of {wanted}"
            continue
        for number, call in enumerate(calls):
            if not _is(RowCall, call):
                yield f"{field}.tool_calls[{number}]", f"{call!r:.100} is no call; write {wanted}"


def tool_shape(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    wanted = "{'type': 'function', 'function': {'name': ..., 'description': ..., 'parameters': {...}}}"
    tools = decoded(row.get("tools"))
    if tools is None:
        return
    if not is_list(tools):
        yield "tools", f"{tools!r:.60} is no list; write a list of {wanted}"
        return
    for number, tool in enumerate(tools):
        if not _is(RowTool, tool):
            yield f"tools[{number}]", f"{tool!r:.100} is no tool; write {wanted}"


def field_types(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if not isinstance(row.get("id"), str | int | None):
        yield "id", f"{row['id']!r:.60} is neither a text nor a whole number; write one"
    if not isinstance(decoded(row.get("reward_model")), dict | None):
        yield "reward_model", f"{row['reward_model']!r:.60} is no object; write {{'ground_truth': ...}}"


SHAPE_RULES: tuple[ShapeRule, ...] = (
    conversation,
    message_keys,
    roles,
    content_types,
    call_shape,
    tool_shape,
    field_types,
)


def explain(data: bytes, error: ValidationError | None) -> list[Found]:
    """Why these bytes are no row; `error` is what `Row` says."""
    try:
        data.decode()
    except UnicodeDecodeError as bad:
        return [Found("encoding", "", f"byte {bad.start + 1} is no UTF-8; save the file in UTF-8")]
    try:
        row: Any = from_json(data, allow_inf_nan=False)
    except ValueError as bad:
        return [Found("json", "", f"no JSON: {bad}; write one object a line, without NaN and Infinity")]
    if not is_object(row):
        return [Found("object", "", f"{row!r:.60} is no object; write {{'messages': [...]}}")]
    found = [Found(rule.__name__, *each) for rule in SHAPE_RULES for each in rule(row)]
    if not found and error is not None:
        found = [_of_pydantic(error)]
    return found


def repeated(data: bytes) -> list[Found]:
    """The keys that stand twice in one object: readers of JSON keep the last value, and say nothing."""
    twice: dict[str, None] = {}

    def look(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        whole = dict(pairs)
        if len(whole) < len(pairs):
            names = [name for name, _ in pairs]
            twice.update(dict.fromkeys(name for name in whole if names.count(name) > 1))
        return whole

    json.loads(data, object_pairs_hook=look, parse_int=str, parse_float=str)
    return [Found("json", name, "stands twice in one object; leave one of them out") for name in twice]


def boundless(row: Mapping[str, Any]) -> list[Found]:
    """The fields whose number is beyond a float's, such as 1e999: it would be written as Infinity."""
    cure = "write a smaller one, or a text"
    return [
        Found("json", name, f"a number beyond 1.8e308; {cure}")
        for name, value in row.items()
        if isinstance(value, float) and math.isinf(value)
    ]


def _of_pydantic(error: ValidationError) -> Found:
    """What only `Row` has found."""
    first = error.errors(include_url=False)[0]
    return Found("field_types", ".".join(map(str, first["loc"])), f"{first['msg']}; write what the page says")


def _messages(row: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    field = "messages" if row.get("messages") is not None else "prompt"
    value = decoded(row.get(field)) if field == "messages" else row.get(field)
    if is_list(value):
        for number, message in enumerate(value):
            yield f"{field}[{number}]", message


def _objects(row: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    return ((field, message) for field, message in _messages(row) if is_object(message))


def _is(kind: type[BaseModel], value: object) -> bool:
    try:
        kind.model_validate(value)
    except ValidationError:
        return False
    return True
