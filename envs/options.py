"""Objects from fields that a person wrote in a recipe."""

import difflib
import inspect
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import is_dataclass
from functools import partial
from typing import Any, TypeVar, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from .errors import no_exit

T = TypeVar("T")


def from_options(kind: type[T], options: Mapping[str, Any]) -> T:
    """An object of a class. Of a dataclass each value must be of its field's type; lists do for tuples.

    >>> from_options(SandboxSpec, {"network": ["pypi.org"]}).network
    ('pypi.org',)

    Raises `ValueError`, which names each wrong field, its value and the cure.
    """
    known, adapters = inspect.signature(kind).parameters, _adapters(kind)
    takes_all = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in known.values())
    fields: dict[str, Any] = {}
    wrong: list[str] = []
    for name, value in options.items():
        if name not in known and not takes_all:
            wrong.append(_no_such(name, value, list(known)))
            continue
        try:
            fields[name] = adapters[name](value) if name in adapters else value
        except ValidationError as error:
            wrong += [_explain(kind, {**each, "loc": (name, *each["loc"])}) for each in error.errors()]
    required = {name for name in adapters if known[name].default is inspect.Parameter.empty}
    wrong += [f"{name}: is missing" for name in sorted(required - options.keys())]
    if wrong:
        raise ValueError("; ".join(wrong))
    try:
        with no_exit():
            return kind(**fields)
    except TypeError as error:
        raise ValueError(f"{kind.__name__}: {error}") from error


def _adapters(kind: type[Any]) -> dict[str, Callable[[Any], Any]]:
    """By the fields of a dataclass, what reads their values; not of those that YAML cannot hold."""
    try:
        hints = get_type_hints(kind, include_extras=True) if is_dataclass(kind) else {}
    except (NameError, TypeError):  # types that are there for a type checker alone
        return {}
    found: dict[str, Callable[[Any], Any]] = {}
    for name in inspect.signature(kind).parameters.keys() & hints.keys():
        with suppress(PydanticUserError):
            found[name] = partial(TypeAdapter(hints[name]).validate_python, extra="forbid")
    return found


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
        kind = get_type_hints(kind)[name]
    return list(getattr(kind, "__dataclass_fields__", ()))


def _no_such(where: str, value: object, known: list[str]) -> str:
    close = difflib.get_close_matches(where.rpartition(".")[2], known, n=1)
    cure = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known) or 'none'}"
    return f"{where}: {value!r:.100}: no such field; {cure}"
