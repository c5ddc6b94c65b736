"""Rows and files of datasets for tests."""

import json
from pathlib import Path
from typing import Any

LOOKUP: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "lookup",
        "description": "Look a word up.",
        "parameters": {"type": "object", "properties": {"word": {"type": "string"}}},
    },
}


def user(text: str = "What is 2 + 2?") -> dict[str, Any]:
    return {"role": "user", "content": text}


def calls(*names: str, tool: str = "lookup", arguments: str = '{"word": "cat"}') -> dict[str, Any]:
    """An assistant message that calls a tool once for each id."""
    made = [
        {"id": name, "type": "function", "function": {"name": tool, "arguments": arguments}} for name in names
    ]
    return {"role": "assistant", "content": None, "tool_calls": made}


def result(call_id: str | None, text: str = "an animal") -> dict[str, Any]:
    return {"role": "tool", "content": text, "tool_call_id": call_id}


def row(*messages: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A row that breaks no rule, but for what is given."""
    return {"messages": list(messages or (user(),)), "reference_answer": "4", **fields}


def write_rows(path: Path, *rows: Any) -> Path:
    """JSON lines: bytes as they are, all else as JSON."""
    lines = [each if isinstance(each, bytes) else json.dumps(each).encode() for each in rows]
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path
