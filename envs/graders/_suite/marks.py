"""What a suite writes on its functions: `pytest.mark`, `pytest.param`, `pytest.fixture`."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from .standins import is_remote
from .wire import is_a


class Mark(NamedTuple):
    """One mark: on a function, a class, a module (`pytestmark`) or a set of parameters."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Marks what it decorates, or takes the arguments."""
        if len(args) == 1 and not kwargs and _is_decorable(args[0]) and self.name != "parametrize":
            target = args[0]
            target.pytestmark = [*_own_marks(target), self]
            return target
        made = Mark(self.name, self.args + args, {**self.kwargs, **kwargs})
        return _Applied(made)


class _Applied:
    """A mark with its arguments: the decorator that is left to apply."""

    def __init__(self, mark: Mark) -> None:
        self.mark = mark

    def __call__(self, target: Any) -> Any:
        target.pytestmark = [*_own_marks(target), self.mark]
        return target


class _Marks:
    """`pytest.mark`: every name is a mark."""

    def __getattr__(self, name: str) -> Mark:
        if name.startswith("_"):
            raise AttributeError(name)
        return Mark(name, (), {})


mark = _Marks()


def marks_of(value: Any) -> list[Mark]:
    """The marks on a function, class or module, nearest first."""
    return [item.mark if isinstance(item, _Applied) else item for item in _own_marks(value)]


def _own_marks(value: Any) -> list[Any]:
    return _listed(value.__dict__.get("pytestmark", ()))


def _listed(found: Any) -> list[Any]:
    return list(found) if is_a(found, (list, tuple)) and not is_a(found, Mark) else [found]


class Param(NamedTuple):
    """One set of parameters."""

    values: tuple[Any, ...]
    id: str | None
    marks: tuple[Mark, ...]


def param(*values: Any, id: str | None = None, marks: Any = ()) -> Param:
    given = (item.mark if isinstance(item, _Applied) else item for item in _listed(marks))
    return Param(values, id, tuple(given))


class ParamSet(NamedTuple):
    """Argument values of one case, with its part of the id."""

    values: dict[str, Any]
    id: str
    marks: tuple[Mark, ...]


def param_sets(names: Sequence[str], values: Any, ids: Any) -> list[ParamSet]:
    """The cases of one `parametrize`, or of a fixture with `params`."""
    rows = [item if isinstance(item, Param) else _as_param(item, len(names)) for item in values]
    if ids is not None and not callable(ids):
        ids = list(ids)
    texts = [_row_id(row, at, names, ids) for at, row in enumerate(rows)]
    sets: list[ParamSet] = []
    for row, text in zip(rows, _distinct(texts)):
        if len(row.values) != len(names):
            raise ValueError(
                f"parametrize: {len(names)} names, but {len(row.values)} values in {row.values!r:.100}"
            )
        sets.append(ParamSet(dict(zip(names, row.values)), text, row.marks))
    return sets


def _as_param(item: Any, count: int) -> Param:
    return Param((item,) if count == 1 else tuple(item), None, ())


def _row_id(row: Param, at: int, names: Sequence[str], ids: Any) -> str:
    if row.id is not None:
        return row.id
    if is_a(ids, list) and ids[at] is not None:
        return str(ids[at])
    chosen = ids if callable(ids) else None
    return "-".join(_value_id(value, name, at, chosen) for name, value in zip(names, row.values))


def _value_id(value: Any, name: str, at: int, choose: Any) -> str:
    if choose is not None:
        value_id = choose(value)
        if value_id is not None:
            return str(value_id)
    if isinstance(value, str):
        return value.encode("unicode_escape").decode()
    if isinstance(value, bytes):
        return value.decode("ascii", "backslashreplace")
    if value is None or isinstance(value, (int, float, complex, bool)):
        return str(value)
    if isinstance(value, enum.Enum):
        return str(value)
    if not is_remote(value) and isinstance(getattr(value, "__name__", None), str):
        return str(value.__name__)
    return f"{name}{at}"


def _distinct(texts: list[str]) -> list[str]:
    """Equal ids get a number each."""
    seen: dict[str, int] = {}
    found: list[str] = []
    for text in texts:
        if texts.count(text) > 1:
            number = seen.get(text, -1) + 1
            seen[text] = number
            text = f"{text}_{number}" if text[-1:].isdigit() else f"{text}{number}"
        found.append(text)
    return found


class Fixture(NamedTuple):
    """A function that makes what tests ask for by name."""

    function: Callable[..., Any]
    name: str
    params: Any
    ids: Any
    autouse: bool

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self


def fixture(function: Any = None, **options: Any) -> Any:
    def made(target: Any) -> Fixture:
        name = options.get("name") or target.__name__
        params, ids = options.get("params"), options.get("ids")
        return Fixture(target, name, params, ids, bool(options.get("autouse", False)))

    return made if function is None else made(function)


def _is_decorable(value: Any) -> bool:
    return callable(value) and not is_remote(value) and hasattr(value, "__dict__")
