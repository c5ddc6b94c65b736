"""Datasets in text files: JSON lines and tables of comma-separated values, gzipped or not."""

import csv
import gzip
import io
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, cast

from pydantic_core import from_json, to_json

from .problem import DatasetError, check_columns
from .record import Record

_record: Callable[[type[Record], tuple[int, bytes, str]], Record] = vars(tuple)["__new__"]
"""Makes one in half the time of its class."""
MAX_LINE = 1 << 26
"""Bytes of one line of JSON: no row is so long, but a file that is not of lines is."""


class TextFile:
    """A file of which the position is known while it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = path.stat().st_size
        self.position: Callable[[], int] = lambda: 0
        """How many bytes of the file, packed as it is, were read."""

    @contextmanager
    def opened(self) -> Generator[IO[bytes]]:
        """The bytes, unpacked. Raises `DatasetError` where they are no gzip, or not the whole of it."""
        with self.path.open("rb") as raw:
            self.position = raw.tell
            try:
                if self.path.suffix == ".gz":
                    with gzip.open(raw) as unpacked:
                        yield cast(IO[bytes], unpacked)
                else:
                    yield raw
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                raise DatasetError(f"{self.path}: {error}; pack or fetch it again") from error
            finally:
                self.position = lambda: self.size


class Lines(TextFile):
    """Its lines, which end at newlines alone: JSON may hold any other separator. Blank ones are nothing."""

    def __iter__(self) -> Iterator[Record]:
        with self.opened() as file:
            for line, data in enumerate(iter(partial(file.readline, MAX_LINE), b""), 1):
                if line == 1:
                    data = self.first(data)
                if len(data) == MAX_LINE:
                    raise DatasetError(
                        f"{self.path}:{line}: longer than {MAX_LINE >> 20} MiB; write one JSON object a line"
                    )
                if not data.isspace():
                    yield _record(Record, (line, data, ""))

    def first(self, data: bytes) -> bytes:
        """The first line without the mark that Windows puts before it."""
        if data.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise DatasetError(f"{self.path}:1: UTF-16; save the file in UTF-8")
        return data.removeprefix(b"\xef\xbb\xbf")


class JsonLines(Lines):
    """One JSON object a line."""

    def first(self, data: bytes) -> bytes:
        data = super().first(data)
        if data.lstrip().startswith(b"["):
            raise DatasetError(
                f"{self.path}:1: a JSON array; write one object a line: jq -c '.[]' {self.path.name}"
            )
        return data


class Csv(TextFile):
    """A table with the names of its columns in the first row; an empty cell is an absent field."""

    def __init__(self, path: Path, delimiter: str) -> None:
        super().__init__(path)
        self._delimiter = delimiter

    def __iter__(self) -> Iterator[Record]:
        csv.field_size_limit(MAX_LINE)
        with self.opened() as file:
            text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
            table = csv.DictReader(text, delimiter=self._delimiter, strict=True)
            try:
                check_columns(table.fieldnames or (), f"{self.path}:1")
                for cells in table:
                    yield Record(table.line_num, to_json(self._row(cells, table.line_num)))
            except (csv.Error, UnicodeDecodeError) as error:
                raise DatasetError(
                    f"{self.path}:{table.line_num + 1}: {error}; save it as CSV in UTF-8"
                ) from error

    def _row(self, cells: dict[str | None, str | list[str] | None], line: int) -> dict[str, object]:
        if None in cells:
            raise DatasetError(
                f"{self.path}:{line}: more cells than columns; put cells with {self._delimiter!r} in quotes"
            )
        row: dict[str, object] = {str(name): cell for name, cell in cells.items() if cell}
        prompt = row.get("prompt")
        if isinstance(prompt, str) and prompt.lstrip().startswith("[{"):
            row["prompt"] = _json_or_text(prompt)
        return row


def _json_or_text(cell: str) -> object:
    try:
        return from_json(cell)
    except ValueError:
        return cell
