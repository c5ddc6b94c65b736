"""What the suite hands to the program and does not copy: functions, fakes, open files.

The program may call a function and use an object as one uses objects. It cannot look into them: a function's
globals and code hold what the suite expects.
"""

from __future__ import annotations

import inspect
import io
import operator
import sys
import types
import unittest
from collections.abc import Callable
from typing import Any

from .operations import ARITHMETIC, OPERATIONS, ORDER, traits
from .wire import is_a, kind_of

_LIKE_VALUES = ("eq", "ne", *ORDER, *(name for name in ARITHMETIC), "str", "repr")
_FILE_METHODS = (
    *("close", "flush", "getvalue", "isatty", "read", "readable", "readline", "readlines", "seek", "tell"),
    *("truncate", "write", "writable", "writelines"),
)
_FILE_TRAITS = ("__enter__", "__exit__", "__iter__", "__next__")
_OPERATIONS: dict[str, Callable[..., Any]] = {**OPERATIONS, "eq": operator.eq, "ne": operator.ne}


class Lender:
    """Keeps what was lent. `modules` are the suite's own: objects of their classes the program may use."""

    def __init__(self, modules: set[str]) -> None:
        self._modules = modules
        self._objects: list[Any] = []
        self._numbers: dict[int, int] = {}
        self.errors: list[BaseException] = []
        """Raised by what was lent: they come home as they left."""

    def lend(self, value: Any) -> list[Any]:
        """What crosses instead of it. `TypeError` for what the program cannot be given."""
        if self._is_standard(value):
            name = "" if isinstance(value, types.ModuleType) else value.__qualname__
            return ["std", _module_of(value), name]
        kind = self._kind(value)
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self._objects)
            self._objects.append(value)
        return ["r", self._numbers[id(value)], self._facts(value, kind)]

    def home(self, number: int) -> Any:
        return self._objects[number]

    def answer(self, op: str, args: list[Any]) -> Any:
        """The program asks something of an object. It may not ask everything."""
        if op == "stdin":
            method, size = args
            if method not in ("read", "readline"):
                raise AttributeError(method)
            return getattr(sys.stdin, method)(int(size))
        value = args[0]
        if id(value) not in self._numbers:
            raise TypeError("that is no object of the suite")
        kind = self._kind(value)
        if op == "getattr":
            if not self._is_open(value, kind, args[1]):
                raise AttributeError(f"the suite's {type(value).__name__} does not show {args[1]!r}")
        elif op == "setattr":
            if kind != "object" or not self._is_open(value, kind, args[1]) or _is_method(value, args[1]):
                raise AttributeError(f"{args[1]!r} of the suite's {type(value).__name__} is not to be set")
        elif f"__{op.rstrip('_')}__" not in self._traits(value, kind):
            raise TypeError(f"the suite's {type(value).__name__} has no {op}")
        return _OPERATIONS[op](*args)

    def failed(self, error: BaseException) -> int:
        self.errors.append(error)
        return len(self.errors) - 1

    def _kind(self, value: Any) -> str:
        mock = sys.modules.get("unittest.mock")
        if mock is not None and isinstance(value, mock.NonCallableMock):
            return "mock"
        if is_a(value, io.IOBase):
            return "file"
        if kind_of(value).__module__ in self._modules and not is_a(value, (unittest.TestCase, type)):
            return "object"
        if callable(value):
            return "function"
        if hasattr(kind_of(value), "__iter__"):
            return "iterable"
        raise TypeError(
            f"the suite hands a {type(value).__name__} to the program, which is in another sandbox: "
            "hand it plain values, functions, or objects of the suite's own classes"
        )

    def _traits(self, value: Any, kind: str) -> list[str]:
        if kind == "function":
            return ["__call__"]
        if kind == "iterable":
            return [name for name in traits(kind_of(value)) if name in ("__iter__", "__next__", "__len__")]
        found = traits(kind_of(value))
        if kind == "file":
            return [name for name in found if name in _FILE_TRAITS]
        own = (f"__{name.rstrip('_')}__" for name in _LIKE_VALUES)
        return found + [name for name in own if _differs(kind_of(value), name)]

    def _facts(self, value: Any, kind: str) -> dict[str, Any]:
        facts: dict[str, Any] = {"traits": self._traits(value, kind), "__name__": type(value).__name__}
        if kind == "function":
            for name in ("__name__", "__qualname__", "__module__", "__doc__"):
                if isinstance(getattr(value, name, None), str):
                    facts[name] = getattr(value, name)
            if isinstance(value, (types.FunctionType, types.MethodType)):
                found = inspect.signature(value, follow_wrapped=False).parameters.values()
                facts["parameters"] = [[p.name, p.kind.name, p.default is not p.empty] for p in found]
        return facts

    def _is_open(self, value: Any, kind: str, name: Any) -> bool:
        """Whether the program may see this attribute."""
        if type(name) is not str or name.startswith("_"):
            return False
        if kind == "mock":
            # What a mock is told by its suite, and tells it, is the class's own.
            return not hasattr(sys.modules["unittest.mock"].NonCallableMock, name)
        return kind == "object" or (kind == "file" and name in _FILE_METHODS)

    def _is_standard(self, value: Any) -> bool:
        """Whether the program's side has it too, under the same name."""
        module = _module_of(value)
        is_ours = module in self._modules or module.split(".")[0] in ("_suite", "pytest")
        if is_ours or type(sys.modules.get(module)) is not types.ModuleType:
            return False
        if isinstance(value, types.ModuleType):
            return sys.modules.get(module) is value
        found: Any = sys.modules[module]
        for name in str(getattr(value, "__qualname__", "?")).split("."):
            found = getattr(found, name, None)
        return found is value


def _module_of(value: Any) -> str:
    if isinstance(value, types.ModuleType):
        return value.__name__
    owner = value if getattr(value, "__module__", None) else getattr(value, "__objclass__", value)
    return str(getattr(owner, "__module__", None))


def _differs(kind: type, name: str) -> bool:
    return getattr(kind, name, None) is not getattr(object, name, None)


def _is_method(value: Any, name: str) -> bool:
    return callable(getattr(kind_of(value), name, None))
