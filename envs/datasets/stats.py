"""What is in a dataset, in numbers."""

from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from .row import Row
from .rules import Count, count_tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """How large something is in a row."""

    min: int
    median: int
    p95: int
    max: int
    total: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Stats:
    rows: int
    fields: dict[str, int]
    """Rows that have the field, by field."""
    roles: dict[str, int]
    """Messages by role."""
    tools: dict[str, int]
    """Rows that offer the tool, by tool."""
    spreads: dict[str, Spread]
    """Of `messages` and `characters`, and `tokens` where they were counted."""
    uncounted: int
    """Rows that the chat template cannot show."""


def measure(rows: Iterable[Row], count: Count | None = None) -> Stats:
    """12 bytes a row, beyond a constant."""
    fields, roles, tools = Counter[str](), Counter[str](), Counter[str]()
    sizes = {name: array("I") for name in ("messages", "characters", "tokens")}
    number, uncounted = 0, 0
    for row in rows:
        number += 1
        fields.update(name for name in row.model_fields_set if getattr(row, name) is not None)
        roles.update(message.role for message in row.conversation)
        tools.update({tool.function.name for tool in row.tools or ()})
        sizes["messages"].append(len(row.conversation))
        sizes["characters"].append(sum(len(message.text) for message in row.conversation))
        if count is not None:
            try:
                sizes["tokens"].append(count_tokens(row, count))
            except ValueError:
                uncounted += 1
    return Stats(
        rows=number,
        fields=dict(fields.most_common()),
        roles=dict(roles.most_common()),
        tools=dict(tools.most_common()),
        spreads={name: _spread(found) for name, found in sizes.items() if found},
        uncounted=uncounted,
    )


def _spread(found: "array[int]") -> Spread:
    values = np.sort(np.frombuffer(found, np.uint32))
    last = len(values) - 1
    return Spread(
        min=int(values[0]),
        median=int(values[last // 2]),
        p95=int(values[int(last * 0.95)]),
        max=int(values[last]),
        total=int(values.sum(dtype=np.uint64)),
    )
