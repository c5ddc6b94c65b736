"""The user's files: JSON Lines or a JSON list, each row checked by a pydantic model."""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

Row = TypeVar("Row", bound=BaseModel)
DEMO = Path(__file__).with_name("demo")
"""A few rows of our own for each environment, so that it can be tried without data."""


def read_rows(path: str | Path, model: type[Row], *, size: int | None = None) -> list[Row]:
    """The first `size` rows of a file, or all.

    Raises `ValueError` with file, row and field for what does not fit.
    """
    if size is not None and size < 1:
        raise ValueError(f"size={size} must be at least 1, or None for all rows")
    rows: list[Row] = []
    for number, found in islice(_found(Path(path)), size):
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


def _found(path: Path) -> Iterator[tuple[int, Any]]:
    """(number from 1, value) of each row."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"path={str(path)!r} cannot be read: {error}; give a JSON Lines file") from error
    if text.lstrip().startswith("["):
        yield from enumerate(_parsed(text, f"{path}"), start=1)
        return
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield number, _parsed(line, f"{path}, line {number}")


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{where} is no JSON: {error}") from error
