"""Runs one test and says how it went."""

from __future__ import annotations

import contextlib
import inspect
import traceback
import unittest
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from . import tools
from .cases import Case, parameters, wanted
from .link import Link
from .outcomes import Skipped, XFailed

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"


class Outcome(NamedTuple):
    """Only `PASSED` is a pass."""

    kind: str
    text: str = ""


def run(case: Case, link: Link, root: str) -> Outcome:
    """Play one case, with its fixtures before and behind it."""
    mark = _held_back(case)
    if mark is not None:
        return Outcome(SKIPPED, f"marked {mark}")
    try:
        if case.owner is not None and issubclass(case.owner, unittest.TestCase):
            return _run_unittest(case)
        with contextlib.ExitStack() as stack:
            _play(case, stack, link, root)
    except (Skipped, XFailed, unittest.SkipTest) as error:
        return Outcome(SKIPPED, f"{type(error).__name__}: {error}")
    except BaseException as error:
        return Outcome(FAILED, told(error, case.base))
    return Outcome(PASSED)


def _held_back(case: Case) -> str | None:
    """A mark that keeps a test from counting: `skip`, `skipif`, `xfail`."""
    for mark in case.marks:
        conditions = (
            [item for item in mark.args if not isinstance(item, str)] if mark.name != "skip" else [True]
        )
        conditions += [mark.kwargs["condition"]] if "condition" in mark.kwargs else []
        if mark.name == "xfail" and not conditions:
            conditions = [True]
        if mark.name in ("skip", "skipif", "xfail") and any(conditions):
            return mark.name
    return None


def _play(case: Case, stack: contextlib.ExitStack, link: Link, root: str) -> None:
    instance = None if case.owner is None else case.owner()
    _set_up(case, instance, stack)
    values = _Values(case, instance, stack, link, root)
    for name in wanted(case.function, case.fixtures, case.marks):
        values.get(name)
    function = case.function if instance is None else case.function.__get__(instance)
    if inspect.isgeneratorfunction(case.function) or inspect.isasyncgenfunction(case.function):
        raise TypeError("a test that yields is never run to its end")
    result = function(**{name: values.get(name) for name in parameters(case.function)})
    if inspect.iscoroutine(result):
        _wait(result)


def _wait(coroutine: Any) -> Any:
    import asyncio  # most suites do without

    return asyncio.run(coroutine)


class _Values:
    """Arguments by name, made when they are asked for."""

    def __init__(self, case: Case, instance: Any, stack: contextlib.ExitStack, link: Link, root: str) -> None:
        self._case, self._instance, self._stack, self._link, self._root = case, instance, stack, link, root
        self._made: dict[str, Any] = dict(case.values)

    def get(self, name: str) -> Any:
        if name not in self._made:
            self._made[name] = self._make(name)
        return self._made[name]

    def _make(self, name: str) -> Any:
        case = self._case
        fixture = case.fixtures.get(name)
        request = tools.Request(self.get, case.function.__name__, case.function, self._instance, case.module)
        if fixture is None:
            if name == "request":
                return request
            return self._begin(tools.make(name, self._link, self._root, case.function.__name__))
        if name in case.chosen:
            request.param = case.chosen[name]
        names = parameters(fixture.function)
        options = {inner: request if inner == "request" else self.get(inner) for inner in names}
        if "self" in inspect.signature(fixture.function).parameters:
            options = {**options, "self": self._instance}
        result = fixture.function(**options)
        if inspect.isgenerator(result):
            result = self._begin(result)
        elif inspect.iscoroutine(result):
            result = _wait(result)
        for finalizer in request.finalizers:
            self._stack.callback(finalizer)
        return result

    def _begin(self, generator: Iterator[Any]) -> Any:
        """What a fixture yields; the rest of it runs behind the test."""
        value = next(generator)

        def end() -> None:
            for _ in generator:
                raise RuntimeError("a fixture yielded twice")

        self._stack.callback(end)
        return value


_PAIRS = (("setup_module", "teardown_module"), ("setup_function", "teardown_function"))
_METHODS = (("setup_class", "teardown_class"), ("setup_method", "teardown_method"))


def _set_up(case: Case, instance: Any, stack: contextlib.ExitStack) -> None:
    """The functions of old: setup_module, setup_function, setup_class, setup_method, and their opposites."""
    pairs: list[Any] = [(case.module, *_PAIRS[0], case.module)]
    if instance is None:
        pairs.append((case.module, *_PAIRS[1], case.function))
    else:
        pairs.append((case.owner, *_METHODS[0], case.owner))
        pairs.append((instance, *_METHODS[1], case.function))
    for holder, before, behind, subject in pairs:
        if hasattr(holder, before):
            _call(getattr(holder, before), subject)
        if hasattr(holder, behind):
            stack.callback(_call, getattr(holder, behind), subject)


def _call(function: Callable[..., Any], subject: Any) -> None:
    function(subject) if parameters(function) else function()


def _run_unittest(case: Case) -> Outcome:
    owner: Any = case.owner
    result = unittest.TestResult()
    unittest.TestSuite([owner(case.function.__name__)]).run(result)
    troubles = [*result.errors, *result.failures]
    if troubles:
        lines = str(troubles[0][1]).strip().splitlines()
        return Outcome(FAILED, f"{lines[-1]} in {_place(lines)}")
    if result.testsRun != 1 or not result.wasSuccessful() or result.skipped or result.expectedFailures:
        return Outcome(SKIPPED, f"unittest: {[reason for _, reason in result.skipped]!r:.100}")
    return Outcome(PASSED)


def _place(lines: list[str]) -> str:
    return next((line.strip() for line in reversed(lines[:-1]) if line.startswith("    ")), "?")


def told(error: BaseException, base: str) -> str:
    """An error in words: what and where in the suite."""
    path = base.partition("::")[0]
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.endswith(path)]
    where = f"line {frames[-1].lineno}: " if frames else ""
    return f"{where}{type(error).__name__}: {error}"[:400]
