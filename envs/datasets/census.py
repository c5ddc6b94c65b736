"""What a rule about a whole dataset has to remember: 20 bytes of each row, or 28, and the kinds of rows."""

from array import array
from dataclasses import dataclass

from pydantic_core import to_json

from .hashes import Hashes
from .row import Row

MAX_KINDS = 1024
"""Sets of fields that are told apart. In a dataset with more, fields that `Row` does not know are ignored."""
KNOWN = frozenset(Row.model_fields)


@dataclass(slots=True)
class Kind:
    """The rows that have the same fields."""

    first: int
    """Its line."""
    count: int = 0


class Census:
    """The lines of the rows seen, hashes of what they hold, and which fields they have."""

    def __init__(self, *, with_prompts: bool = False) -> None:
        self.kinds: dict[frozenset[str], Kind] = {}
        """By the fields that are there and not null."""
        self._newest = Kind(first=0)
        self._known: list[str] = []
        self._more: list[str] = []
        lines = array("I")
        self.rows, self.ids = Hashes(lines, array("q")), Hashes(lines, array("q"))
        self.prompts = Hashes(lines, array("q")) if with_prompts else None
        self._lines, self._rows, self._ids = lines, self.rows.values, self.ids.values
        self._prompts = self.prompts.values if self.prompts else None

    def __len__(self) -> int:
        return len(self._lines)

    def add(self, line: int, row: Row) -> None:
        prompt = prompt_hash(row)
        self._lines.append(line)
        self._rows.append(row_hash(row, prompt))
        self._ids.append(0 if row.id is None else hash(str(row.id)))
        if self._prompts is not None:
            self._prompts.append(prompt)
        self._kind(line, row).count += 1

    def _kind(self, line: int, row: Row) -> Kind:
        """Mostly that of the row before."""
        extra = row.__pydantic_extra__
        known = [name for name, value in row.__dict__.items() if value is not None]
        more: list[str] = [name for name, value in extra.items() if value is not None] if extra else []
        if known != self._known or more != self._more:
            there = KNOWN.intersection(known).union(more)
            if there not in self.kinds and len(self.kinds) >= MAX_KINDS:
                there &= KNOWN
            self._newest = self.kinds.setdefault(there, Kind(first=line))
            self._known, self._more = known, more
        return self._newest


def prompt_hash(row: Row) -> int:
    """Of the conversation: roles, texts and calls."""
    if row.messages is None and isinstance(row.prompt, str):
        return hash(("user", row.prompt))
    parts: list[str | bytes] = []
    for message in row.conversation:
        content = message.content
        parts += (message.role, content if isinstance(content, str) else message.text)
        if message.tool_calls:
            parts.append(to_json(message.tool_calls))
    return hash(tuple(parts))


def row_hash(row: Row, prompt: int) -> int:
    """Of the conversation, the tools and the reference; neither of the id nor of metadata."""
    reference = row.reference
    expected = reference if isinstance(reference, str) else to_json(reference)
    return hash((prompt, row.tools_json if row.tools else None, expected))
