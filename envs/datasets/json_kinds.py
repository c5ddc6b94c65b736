"""What a JSON value is, for the type checkers too."""

from typing import Any, TypeGuard

from pydantic_core import from_json


def is_object(value: object) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)


def is_list(value: object) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


def decoded(value: Any) -> Any:
    """The value of a field that may be JSON text.

    >>> decoded('[1]'), decoded([1]), decoded("[")
    ([1], [1], '[')
    """
    if not isinstance(value, str):
        return value
    try:
        return from_json(value)
    except ValueError:
        return value


def at(value: Any, path: str) -> Any:
    """What stands at a dotted path; None where nothing does.

    >>> at({"a": {"b": 1}}, "a.b"), at({"a": 1}, "a.b")
    (1, None)
    """
    for name in path.split("."):
        value = value.get(name) if is_object(value) else None
    return value
