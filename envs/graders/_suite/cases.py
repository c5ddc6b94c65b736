"""Finds the tests in a module of the suite: functions, methods, those of `unittest`; with parameters."""

from __future__ import annotations

import inspect
import types
import unittest
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from .marks import Fixture, Mark, ParamSet, marks_of, param_sets
from .standins import is_remote
from .wire import is_a, kind_of

if TYPE_CHECKING:
    from typing import TypeAlias

Fixtures: TypeAlias = "dict[str, Fixture]"


class Case(NamedTuple):
    """One test: a function, in a class or not, with one set of parameters."""

    base: str
    """Its id without parameters: "tests/test_a.py::TestStack::test_pop"."""
    params: str
    """What stands in the brackets of its id; "" for none."""
    function: Any
    owner: type | None
    module: Any
    values: dict[str, Any]
    """Arguments by name, from `parametrize`."""
    chosen: dict[str, Any]
    """Parameters of fixtures, by the fixture's name."""
    fixtures: Fixtures
    """All that it can ask for."""
    marks: tuple[Mark, ...]

    @property
    def id(self) -> str:
        return f"{self.base}[{self.params}]" if self.params else self.base


def collect(path: str, module: Any, shared: Fixtures) -> list[Case]:
    """The cases of one file. `shared`: fixtures of the conftest files above it."""
    fixtures = {**shared, **fixtures_of(module)}
    found: list[Case] = []
    for name, value in items_of(module):
        if is_a(value, type) and not is_remote(value):
            if issubclass(value, unittest.TestCase) or name.startswith("Test"):
                inner = {**fixtures, **fixtures_of(value)}
                found += _methods(f"{path}::{name}", value, module, inner)
        elif name.startswith("test") and kind_of(value) is types.FunctionType:
            marks = (*marks_of(value), *marks_of(module))
            found += _cases(f"{path}::{name}", value, None, module, fixtures, marks)
    return found


def fixtures_of(holder: Any) -> Fixtures:
    """The fixtures that a module or a class defines."""
    spaces = reversed(holder.__mro__) if inspect.isclass(holder) else [holder]
    values = (value for space in spaces for _, value in items_of(space))
    return {value.name: value for value in values if isinstance(value, Fixture)}


def items_of(holder: Any) -> list[tuple[str, Any]]:
    """What a module or a class has of its own."""
    space: dict[str, Any] = holder.__dict__
    return list(space.items())


def _methods(base: str, owner: Any, module: Any, fixtures: Fixtures) -> Iterator[Case]:
    marks = (
        *(mark for kind in owner.__mro__ for mark in marks_of(kind) if kind is not object),
        *marks_of(module),
    )
    names: list[str] = []
    for kind in reversed(owner.__mro__):
        names += [name for name, _ in items_of(kind) if name.startswith("test") and name not in names]
    for name in names:
        function = inspect.getattr_static(owner, name)
        function = getattr(function, "__func__", function)
        if kind_of(function) is types.FunctionType:
            all_marks = (*marks_of(function), *marks)
            yield from _cases(f"{base}::{name}", function, owner, module, fixtures, all_marks)
    for name, value in items_of(owner):
        if name.startswith("Test") and is_a(value, type) and not is_remote(value):
            yield from _methods(f"{base}::{name}", value, module, {**fixtures, **fixtures_of(value)})


def _cases(
    base: str, function: Any, owner: Any, module: Any, fixtures: Fixtures, marks: tuple[Mark, ...]
) -> Iterator[Case]:
    rows: list[tuple[dict[str, Any], dict[str, Any], list[str], tuple[Mark, ...]]] = [({}, {}, [], marks)]
    given = [_parametrize(*mark.args, **mark.kwargs) for mark in marks if mark.name == "parametrize"]
    for name in wanted(function, fixtures, marks):
        fixture = fixtures.get(name)
        if (
            fixture is not None
            and fixture.params is not None
            and not any(name in names for names, _, _ in given)
        ):
            rows = [
                _with(row, one, {name})
                for row in rows
                for one in param_sets([name], fixture.params, fixture.ids)
            ]
    for _, sets, indirect in given:
        rows = [_with(row, one, indirect) for row in rows for one in sets]
    for values, chosen, ids, all_marks in rows:
        text = "-".join(ids)
        yield Case(base, text, function, owner, module, values, chosen, fixtures, all_marks)


def _parametrize(names: Any, values: Any, indirect: Any = False, ids: Any = None, scope: Any = None) -> Any:
    listed = (
        [name.strip() for name in names.split(",") if name.strip()] if isinstance(names, str) else list(names)
    )
    told = set(listed) if indirect is True else set(indirect or ())
    return listed, param_sets(listed, values, ids), told


def _with(row: Any, one: ParamSet, indirect: Any) -> Any:
    values, chosen, ids, marks = row
    plain = {name: value for name, value in one.values.items() if name not in indirect}
    told = {name: value for name, value in one.values.items() if name in indirect}
    return {**values, **plain}, {**chosen, **told}, [*ids, one.id], (*marks, *one.marks)


def wanted(function: Any, fixtures: Fixtures, marks: tuple[Mark, ...]) -> list[str]:
    """The fixtures that a test uses, those of its fixtures included, in the order of their use."""
    found: list[str] = []

    def add(name: str) -> None:
        if name in found:
            return
        if name in fixtures:
            for inner in parameters(fixtures[name].function):
                if inner != name:
                    add(inner)
        found.append(name)

    for fixture in fixtures.values():
        if fixture.autouse:
            add(fixture.name)
    for mark in marks:
        if mark.name == "usefixtures":
            for name in mark.args:
                add(name)
    for name in parameters(function):
        add(name)
    return found


def parameters(function: Any) -> list[str]:
    """Argument names that are to be filled: no self, none with a default, none that `mock.patch` fills."""
    patched = sum(1 for patch in getattr(function, "patchings", ()) if _fills(patch))
    found = [
        parameter.name
        for parameter in inspect.signature(function).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    ]
    if found[:1] == ["self"]:
        return found[1 + patched :]
    return found[patched:]


def _fills(patch: Any) -> bool:
    return not patch.attribute_name and repr(patch.new) == "sentinel.DEFAULT"
