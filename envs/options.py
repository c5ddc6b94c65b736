"""Objects from fields that a person wrote in a recipe."""

import difflib
import inspect
from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError

from .errors import no_exit

T = TypeVar("T")


def from_options(kind: type[T], options: Mapping[str, Any]) -> T:
    """An object of a class. Of a dataclass each value must be of its field's type; lists do for tuples.

    >>> from_options(SandboxSpec, {"network": ["pypi.org"]}).network
    ('pypi.org',)

    Raises `ValueError`, which names each wrong field, its value and the cure.
    """
    if options and (adapter := _adapter(kind)) is not None:
        try:
            return adapter.validate_python(dict(options), extra="forbid")
        except ValidationError as error:
            raise ValueError("; ".join(_explain(kind, each) for each in error.errors())) from error
    known = inspect.signature(kind).parameters
    takes_all = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in known.values())
    for name, value in options.items():
        if name not in known and not takes_all:
            raise ValueError(_no_such(name, value, list(known)))
    try:
        with no_exit():
            return kind(**options)
    except TypeError as error:
        raise ValueError(f"{kind.__name__}: {error}") from error


def _adapter(kind: type[T]) -> TypeAdapter[T] | None:
    """What reads the fields of a dataclass; None for other classes, and for fields that YAML cannot hold."""
    if not is_dataclass(kind) or not vars(kind)["__dataclass_params__"].init:
        return None
    try:
        return TypeAdapter(kind)
    except PydanticSchemaGenerationError:
        return None


def _explain(kind: Any, detail: Any) -> str:
    """One wrong field, in words."""
    loc, value = detail["loc"], detail["input"]
    where = ".".join(map(str, loc))
    if detail["type"] == "unexpected_keyword_argument":
        return _no_such(where, value, _fields(kind, loc[:-1]))
    if detail["type"] == "missing":
        return f"{where}: is missing"
    why = detail["msg"].removeprefix("Value error, ")
    return f"{where}: {value!r:.200}: {why}" if where else why


def _fields(kind: Any, path: tuple[Any, ...]) -> list[str]:
    """The names of the fields at a path through dataclasses."""
    for name in path:
        kind = kind.__dataclass_fields__[name].type
    return list(getattr(kind, "__dataclass_fields__", ()))


def _no_such(where: str, value: object, known: list[str]) -> str:
    close = difflib.get_close_matches(where.rpartition(".")[2], known, n=1)
    cure = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known) or 'none'}"
    return f"{where}: {value!r:.100}: no such field; {cure}"
