"""A row as services for reinforcement fine-tuning take it."""

import json
from typing import Any

from .row import Row, RowMessage


def to_chat(row: Row) -> dict[str, Any]:
    """`messages`, `tools`, `reference_answer`, `id` and the metadata; what is not there is left out.

    >>> to_chat(Row.model_validate({"prompt": "1 + 1", "reward_model": {"ground_truth": "2"}, "level": 1}))
    {'messages': [{'role': 'user', 'content': '1 + 1'}], 'reference_answer': '2', 'level': 1}
    """
    chat: dict[str, Any] = {"id": row.id} if row.id is not None else {}
    chat["messages"] = [_message(each) for each in row.conversation]
    if row.tools:
        chat["tools"] = [tool.model_dump(exclude_none=True) for tool in row.tools]
    if row.reference is not None:
        chat["reference_answer"] = row.reference
    return chat | row.metadata


def _message(message: RowMessage) -> dict[str, Any]:
    found = message.model_dump(exclude_none=True)
    for call in found.get("tool_calls", ()):
        call["function"]["arguments"] = json.dumps(call["function"]["arguments"], ensure_ascii=False)
    return found
