"""The user's folder with tau-bench's retail files."""

from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from ...message import ToolSpec
from .database import Order, Product, Shop, User
from .recording import Recording
from .tools import RetailTools

T = TypeVar("T")


@cache
def read_shop(folder: Path) -> Shop:
    """The shop of a folder with users.json, products.json, orders.json and wiki.md. Read once a process."""
    return Shop(
        users=read(folder / "users.json", TypeAdapter(dict[str, User])),
        products=read(folder / "products.json", TypeAdapter(dict[str, Product])),
        orders=read(folder / "orders.json", TypeAdapter(dict[str, Order])),
        policy=(folder / "wiki.md").read_text(encoding="utf-8").strip(),
    )


def read(path: Path, adapter: TypeAdapter[T]) -> T:
    """A file's content. Raises `ValueError`, which names the file and the first field that does not fit."""
    try:
        return adapter.validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise ValueError(f"{path}: {where}: {first['msg']}; retail reads the files of tau-bench") from error


def read_recordings(folder: Path, split: str) -> list[Recording]:
    """Those of `tasks_<split>.json`. Raises `ValueError` where there are none."""
    path = folder / f"tasks_{split}.json"
    if not path.is_file():
        found = sorted(other.stem.removeprefix("tasks_") for other in folder.glob("tasks_*.json"))
        raise ValueError(
            f"path={str(folder)!r}, split={split!r}: there is no {path.name}; "
            f"the splits there are: {', '.join(found) or 'none'}; "
            "give the folder with tau-bench's retail files"
        )
    return read(path, TypeAdapter(list[Recording]))


class _Function(BaseModel):
    name: str
    description: str
    parameters: dict[str, Any]


class _Schema(BaseModel):
    function: _Function


@cache
def read_specs(folder: Path) -> tuple[ToolSpec, ...]:
    """The tools in the words of `tool_schemas.json`; without the file none, and our own words are shown."""
    path = folder / "tool_schemas.json"
    if not path.is_file():
        return ()
    found = [schema.function for schema in read(path, TypeAdapter(list[_Schema]))]
    if sorted(function.name for function in found) != sorted(RetailTools.offered):
        raise ValueError(f"{path}: it must describe the tools {', '.join(sorted(RetailTools.offered))}")
    return tuple(ToolSpec(**function.model_dump()) for function in found)
