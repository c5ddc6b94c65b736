"""The user's files: any dataset, or a JSON list, each row checked by a pydantic model."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from ..datasets.json_kinds import is_list
from ..datasets.source import open_source
from ..datasets.text_files import TextFile

Row = TypeVar("Row", bound=BaseModel)
DEMO = Path(__file__).with_name("demo")
"""A few rows of our own for each environment, so that it can be tried without data."""
MARK = b"\xef\xbb\xbf"
"""What Windows puts before a text."""


def read_rows(path: str | Path, model: type[Row], *, size: int | None = None) -> list[Row]:
    """The first `size` rows of a dataset, or all.

    Raises `ValueError` with file, row and field for what does not fit.
    """
    if size is not None and size < 1:
        raise ValueError(f"size={size} must be at least 1, or None for all rows")
    rows: list[Row] = []
    for number, found in islice(_found(path), size):
        try:
            rows.append(model.model_validate(found))
        except ValidationError as error:
            wrong = error.errors(include_url=False)[0]
            field = ".".join(map(str, wrong["loc"])) or "the row"
            raise ValueError(
                f"{path}, row {number}: {field}: {wrong['msg']}, got {wrong['input']!r:.100}"
            ) from error
    if not rows:
        raise ValueError(f"{path} holds no rows; give a file of JSON Lines, or a JSON list")
    return rows


def _found(path: str | Path) -> Iterator[tuple[int, Any]]:
    """(number from 1, value) of each row; of JSON lines, the number is the line's."""
    listed = _listed(Path(path))
    if listed is not None:
        yield from enumerate(listed, start=1)
        return
    for record in open_source(path):
        yield record.line, _parsed(record.data, f"{path}, line {record.line}")


def _listed(path: Path) -> list[Any] | None:
    """The rows of a JSON list, which are read at once; None for every other form."""
    if not path.is_file():
        return None
    with TextFile(path).opened() as file:
        if not file.read(1 << 12).removeprefix(MARK).lstrip().startswith(b"["):
            return None
        file.seek(0)
        found = _parsed(file.read().removeprefix(MARK), f"{path}")
    assert is_list(found)
    return found


def _parsed(data: bytes, where: str) -> Any:
    try:
        return from_json(data)
    except ValueError as error:
        raise ValueError(f"{where} is no JSON: {error}") from error
