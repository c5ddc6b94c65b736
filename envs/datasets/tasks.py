"""Rows as tasks."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from typing import Any

from pydantic_core import from_json, to_json

from ..message import AssistantMessage, Message, SystemMessage, ToolCall, ToolMessage, ToolSpec, UserMessage
from ..task import Task
from .json_kinds import at
from .row import Row, RowMessage, RowTool
from .seen import Seen


def to_tasks(rows: Iterable[Row]) -> Iterator[Task]:
    """The rows as tasks, one at a time. A row without an `id` has one made of its content, so that it keeps
    its name in a file of another order; the second of two equal ones ends in `-2`."""
    seen, repeats = Seen(), Counter[str]()
    for row in rows:
        name = content_id(row) if row.id is None else str(row.id)
        if row.id is None and not seen.add(name):
            repeats[name] += 1
            name = f"{name}-{repeats[name] + 1}"
        yield _task(row, name)


def content_id(row: Row) -> str:
    """What is asked and what is expected, as a name: 64 bits of a hash."""
    content = from_json(to_json((row.conversation, row.tools, row.reference), exclude_none=True))
    canonical = json.dumps(content, sort_keys=True, ensure_ascii=False).encode()
    return f"row-{blake2b(canonical, digest_size=8).hexdigest()}"


def to_messages(conversation: Iterable[RowMessage]) -> tuple[Message, ...]:
    """The conversation as environments and policies know it."""
    return tuple(_message(each) for each in conversation)


def to_tools(tools: Iterable[RowTool]) -> tuple[ToolSpec, ...]:
    """A tool without `parameters` takes none."""
    return tuple(_tool(each) for each in tools)


def _task(row: Row, name: str) -> Task:
    metadata = row.metadata
    return Task(
        id=name,
        messages=to_messages(row.conversation),
        tools=to_tools(row.tools or ()),
        reference=_inner_reference(metadata) if row.reference is None else row.reference,
        metadata=metadata,
    )


def _inner_reference(metadata: Mapping[str, Any]) -> Any:
    """Bedrock's event has the reference in `metadata`, and so have some files."""
    return at(metadata, "metadata.reference_answer")


def _tool(tool: RowTool) -> ToolSpec:
    found = tool.function
    if found.parameters is None:
        return ToolSpec(name=found.name, description=found.description or "")
    return ToolSpec(name=found.name, description=found.description or "", parameters=found.parameters)


def _message(row: RowMessage) -> Message:
    match row.role:
        case "system" | "developer":
            return SystemMessage(row.text)
        case "user":
            return UserMessage(row.text)
        case "tool":
            return ToolMessage(row.text, row.tool_call_id or "", row.name or "")
        case "assistant":
            calls = tuple(
                ToolCall(id=call.id, name=call.function.name, arguments=call.function.arguments)
                for call in row.tool_calls or ()
            )
            return AssistantMessage(row.text, row.reasoning_content or "", calls)
