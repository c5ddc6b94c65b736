"""Inference logs as rows: what a model was asked, and in `response` what it said.

bedrock   Amazon Bedrock's model invocation logs: the objects in S3, or the messages of CloudWatch
openai    requests to an OpenAI-compatible endpoint (vLLM, a proxy) with their responses: `request` and
          `response`, the lines of a batch, or stored completions

The rows are as good as the log. `validate` tells what is missing.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic_core import from_json

from . import bedrock_log, openai_log
from .chat_blocks import Unreadable
from .json_kinds import is_object
from .problem import DatasetError
from .record import Record
from .text_files import JsonLines

Kind = Literal["bedrock", "openai"]
KINDS: Mapping[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "bedrock": bedrock_log.to_row,
    "openai": openai_log.to_row,
}


@dataclass(kw_only=True, slots=True)
class Import:
    """Reads log entries as rows, and counts what it leaves out.

    >>> rows = Import(kind="bedrock", where={"requestMetadata.team": "search"})
    >>> list(rows.read([Record(1, b"{}")])), dict(rows.skipped)
    ([], {"requestMetadata.team is not 'search'": 1})
    """

    kind: Kind
    where: Mapping[str, str] = field(default_factory=dict[str, str])
    """What the entry must hold, by its dotted path: `modelId`, `requestMetadata.team`."""
    response_as_reference: bool = False
    """What the model said becomes `reference_answer`."""
    skipped: Counter[str] = field(default_factory=Counter[str])
    """Entries left out, by reason."""

    def read(self, source: Iterable[Record]) -> Iterator[dict[str, Any]]:
        for record in source:
            try:
                yield self._row(record)
            except Unreadable as error:
                self.skipped[str(error)] += 1

    def _row(self, record: Record) -> dict[str, Any]:
        entry = _entry(record.data)
        for path, wanted in self.where.items():
            if str(_at(entry, path)) != wanted:
                raise Unreadable(f"{path} is not {wanted!r}")
        row = KINDS[self.kind](entry)
        if self.response_as_reference:
            response = row.pop("response", None)
            if response is None:
                raise Unreadable("no response that could be the reference")
            if not response["content"]:
                raise Unreadable("the response has no text that could be the reference: it is calls of tools")
            row["reference_answer"] = response["content"]
        return row


def log_files(path: Path) -> list[Path]:
    """The file, or every file below the folder, by name: as Bedrock leaves them in S3.

    Raises `DatasetError` where there is none.
    """
    found = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
    if not found or not found[0].is_file():
        raise DatasetError(f"{path}: there is no such log; name a file of JSON lines, or a folder of them")
    return found


class Logs:
    """The entries of all `log_files`, a `Source`."""

    def __init__(self, path: Path) -> None:
        self._files = [JsonLines(file) for file in log_files(path)]
        self.size = sum(file.size for file in self._files)

    def position(self) -> int:
        return sum(file.position() for file in self._files)

    def __iter__(self) -> Iterator[Record]:
        for file in self._files:
            yield from file


def _entry(data: bytes) -> dict[str, Any]:
    """The entry in a line: alone, behind CloudWatch's time stamp, or as the message of an event."""
    try:
        entry = from_json(data[max(0, data.find(b"{")) :])
        message = entry.get("message", entry.get("@message")) if is_object(entry) else None
        if isinstance(message, str):
            entry = from_json(message)
    except ValueError as error:
        raise Unreadable("no JSON") from error
    if not is_object(entry):
        raise Unreadable("no JSON object")
    return entry


def _at(entry: Any, path: str) -> Any:
    for name in path.split("."):
        entry = entry.get(name) if is_object(entry) else None
    return entry
