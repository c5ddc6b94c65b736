"""Inference logs as rows: what a model was asked, and in `response` what it said.

bedrock   Amazon Bedrock's model invocation logs: the objects in S3, or the messages of CloudWatch
openai    requests to an OpenAI-compatible endpoint (vLLM, a proxy) with their responses: `request` and
          `response`, the lines of a batch, or stored completions

What comes out are rows. Whether they are good ones, `validate` tells.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic_core import from_json, to_json

from . import bedrock_log, openai_log
from .json_kinds import at, is_object
from .log_entry import Unreadable
from .problem import DatasetError
from .reading import parse_row
from .record import Record
from .shape import Malformed
from .text_files import Lines

LogFormat = Literal["bedrock", "openai"]
IMPORTERS: Mapping[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "bedrock": bedrock_log.to_row,
    "openai": openai_log.to_row,
}
MAX_KEPT = 1000
"""Entries left out that are remembered with their place, and reasons that are told apart."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LeftOut:
    """An entry of a log that became no row.

    >>> print(LeftOut(path="a.log", line=3, field="request.messages[0]", reason="'hi' is no object"))
    a.log:3: request.messages[0]: 'hi' is no object
    """

    path: str
    line: int
    field: str
    """Of the entry, or of the row that it would have been; "" for the whole."""
    reason: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {f'{self.field}: ' if self.field else ''}{self.reason}"


@dataclass(kw_only=True, slots=True)
class Import:
    """Reads log entries as rows, and remembers what it leaves out.

    >>> rows = Import(format="bedrock", where={"requestMetadata.team": "search"})
    >>> list(rows.read([Record(1, b"{}", "a.log")])), dict(rows.skipped)
    ([], {"requestMetadata.team is not 'search'": 1})
    """

    format: LogFormat
    where: Mapping[str, str] = field(default_factory=dict[str, str])
    """What the entry must hold, by its dotted path: `modelId`, `requestMetadata.team`."""
    response_as_reference: bool = False
    """What the model said becomes `reference_answer`."""
    skipped: Counter[str] = field(default_factory=Counter[str])
    """Entries left out, by reason."""
    left_out: list[LeftOut] = field(default_factory=list[LeftOut])
    """The first of them that cannot be read; those that `where` leaves out are not among them."""

    def read(self, source: Iterable[Record]) -> Iterator[dict[str, Any]]:
        for record in source:
            try:
                row = self._row(record.data)
            except Unreadable as error:
                self._leave_out(record, error.field, str(error))
            except Malformed as error:
                self._leave_out(record, error.found[0].field, str(error))
            else:
                if row is not None:
                    yield row

    def _row(self, data: bytes) -> dict[str, Any] | None:
        """None for an entry that nobody asked for. Raises `Unreadable` and `Malformed`."""
        entry = _entry(data)
        for path, wanted in self.where.items():
            if str(at(entry, path)) != wanted:
                self.skipped[f"{path} is not {wanted!r}"] += 1
                return None
        row = IMPORTERS[self.format](entry)
        if self.response_as_reference:
            response = row.pop("response", None)
            if response is None:
                raise Unreadable("no response that could be the reference", "response")
            if not response["content"]:
                why = "the response has no text that could be the reference: it is calls of tools"
                raise Unreadable(why, "response")
            row["reference_answer"] = response["content"]
        parse_row(to_json(row))
        return row

    def _leave_out(self, record: Record, field: str, reason: str) -> None:
        is_known = reason in self.skipped or len(self.skipped) < MAX_KEPT
        self.skipped[reason if is_known else "other reasons"] += 1
        if len(self.left_out) < MAX_KEPT:
            self.left_out.append(LeftOut(path=record.path, line=record.line, field=field, reason=reason))


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
        self._files = [Lines(file) for file in log_files(path)]
        self.size = sum(file.size for file in self._files)

    def position(self) -> int:
        return sum(file.position() for file in self._files)

    def __iter__(self) -> Iterator[Record]:
        for file in self._files:
            name = str(file.path)
            for line, data, _ in file:
                yield Record(line, data, name)


def _entry(data: bytes) -> dict[str, Any]:
    """The entry in a line: alone, behind CloudWatch's time stamp, or as the message of an event."""
    try:
        entry = from_json(data[max(0, data.find(b"{")) :], allow_inf_nan=False)
        message = entry.get("message", entry.get("@message")) if is_object(entry) else None
        if isinstance(message, str):
            entry = from_json(message, allow_inf_nan=False)
    except ValueError as error:
        raise Unreadable("no JSON") from error
    if not is_object(entry):
        raise Unreadable("no JSON object")
    return entry
