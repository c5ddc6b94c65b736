"""Makes stand-ins: a class here for each class of the program that comes along, with its bases."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Container
from typing import Any

from .special import METHODS, wait
from .standins import (
    ANSWER,
    RemoteClass,
    RemoteObject,
    RemoteType,
    Stub,
    ask,
    attribute,
    stub_of,
    trust_of,
)
from .wire import Frame

_KINDS: dict[str, Any] = {
    "async_generator": types.AsyncGeneratorType,
    "builtin_function_or_method": types.BuiltinFunctionType,
    "function": types.FunctionType,
    "generator": types.GeneratorType,
    "method": types.MethodType,
    "module": types.ModuleType,
}
"""What `isinstance` should say of a stand-in for one of these."""


class RemoteError(metaclass=RemoteType):
    """What stand-ins for errors of the program's own classes have, beside their standard base."""

    _palaestra_stub = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_palaestra"):
            raise AttributeError(name)
        return attribute(self, name)

    def __str__(self) -> str:
        text: str = self.__dict__["_palaestra_text"]
        return text


class Mirrors:
    """The classes of one session, and the stand-ins: one for each object and degree of trust."""

    def __init__(self, link: Any, modules: set[str]) -> None:
        self._link = link
        self._modules = modules
        self._kinds: dict[int, Any] = {}
        self._objects: dict[tuple[int, str], Any] = {}

    def kind(self, description: list[Any]) -> Any:
        """The class here for a class there; a standard error is itself."""
        number = description[0]
        if number not in self._kinds:
            facts = description[1]
            bases = [self.kind(base) for base in facts["bases"]]
            standard = self._standard_error(facts["module"], facts["qualname"])
            self._kinds[number] = standard or self._make(number, facts, bases)
        return self._kinds[number]

    def stand_in(self, number: int, description: list[Any], trust: str) -> Any:
        kind = self.kind(description)
        if (number, trust) not in self._objects:
            if not issubclass(kind, RemoteObject) or type(number) is not int:
                raise TypeError(f"object {number!r} of class {kind!r}")
            made = object.__new__(kind)
            object.__setattr__(made, "_palaestra", Stub(self._link, number, trust))
            self._objects[number, trust] = made
        found = self._objects[number, trust]
        is_coroutine = kind.__name__ == "coroutine" and kind.__module__ == "builtins"
        return wait(found, "await") if is_coroutine else found

    def answer(self, description: list[Any]) -> Any:
        """A class that the suite has not named."""
        kind = self.kind(description)
        if not isinstance(kind, RemoteType):
            return kind
        key = (stub_of(kind).number, ANSWER)
        if key not in self._objects:
            made = object.__new__(RemoteClass)
            object.__setattr__(made, "_palaestra", Stub(self._link, key[0], ANSWER))
            object.__setattr__(made, "_palaestra_kind", kind)
            self._objects[key] = made
        return self._objects[key]

    def error(self, error: Frame, decode: Callable[[Any], Any]) -> BaseException:
        """An error of the program: a standard one is a real one, others are stand-ins."""
        number, description = error["self"]
        kind = self.kind(description)
        args = [decode(item) for item in error["args"]]
        state = {str(name): decode(item) for name, item in error["state"].items()}
        if not issubclass(kind, BaseException):
            raise TypeError(f"an error of class {kind!r}")
        if isinstance(kind, RemoteType):
            made = self._objects.get((number, "error"))
            if made is None:
                made = self._objects[number, "error"] = _blank(kind)
            state = {"_palaestra": Stub(self._link, number, ANSWER), "_palaestra_text": str(error["text"])}
        else:
            made = _standard(kind, args)
        made.args = tuple(args)
        made.__dict__.update(state)
        cause = error["cause"]
        made.__cause__ = None if cause is None else self.error(cause, decode)
        found: BaseException = made
        return found

    def _make(self, number: int, facts: Frame, bases: list[Any]) -> Any:
        doc = facts["doc"]
        space: dict[str, Any] = {
            "__doc__": doc if isinstance(doc, str) else None,
            "__module__": str(facts["module"]),
            "__qualname__": str(facts["qualname"]),
            "_palaestra_stub": Stub(self._link, number, ANSWER),
        }
        errors = [base for base in bases if issubclass(base, BaseException)]
        if errors:
            is_new = not any(isinstance(base, RemoteType) for base in errors)
            return RemoteType(str(facts["name"]), (RemoteError, *errors) if is_new else tuple(errors), space)
        traits = [str(name) for name in facts["traits"]]
        space.update((name, METHODS[name]) for name in traits if name in METHODS)
        if "__len__" in traits:
            space["__bool__"] = METHODS["__bool__"]
        if "__hash__" not in traits:
            space["__hash__"] = None
        if facts["module"] == "builtins" and facts["name"] in _KINDS:
            space.update(_like(_KINDS[facts["name"]]))
        space["__slots__"] = ()
        return RemoteType(str(facts["name"]), tuple(bases) or (RemoteObject,), space)

    def _standard_error(self, module: Any, name: Any) -> Any | None:
        """The public exception class of that name, of a standard module that is loaded here."""
        parts = [*str(module).split("."), *str(name).split(".")]
        if any(part.startswith("_") for part in parts) or module in self._modules or parts[0] == "pytest":
            return None
        found: Any = sys.modules.get(str(module))
        if not isinstance(found, types.ModuleType) or isinstance(found, RemoteModule):
            return None
        for part in str(name).split("."):
            found = getattr(found, part, None)
        return found if isinstance(found, type) and issubclass(found, BaseException) else None


class RemoteModule(types.ModuleType):
    """A stand-in for a module of the program, as `import` wants it. Its attributes are asked for."""

    def __init__(self, name: str, view: Any, taken: Container[str]) -> None:
        """`taken`: names that `from name import *` leaves alone, which mean something to the suite."""
        super().__init__(name)
        vars(self)["_palaestra_taken"] = taken
        vars(self)["_palaestra"] = stub_of(view)
        vars(self)["_palaestra_view"] = view

    def __getattr__(self, name: str) -> Any:
        view = vars(self).get("_palaestra_view")
        if view is None or name in ("__path__", "__wrapped__"):
            raise AttributeError(name)
        link = vars(self)["_palaestra"].link
        if name == "__all__":
            taken = vars(self)["_palaestra_taken"]
            return [found for found in link.ask("dir", view) if found[:1] != "_" and found not in taken]
        return link.ask("getattr", view, name, trust=trust_of(name))

    def __setattr__(self, name: str, value: Any) -> None:
        # What the import system writes on a module is of this side.
        if isinstance(value, RemoteModule) or name.startswith("__"):
            vars(self)[name] = value
        else:
            vars(self)["_palaestra"].link.ask("setattr", vars(self)["_palaestra_view"], name, value)

    def __delattr__(self, name: str) -> None:
        vars(self)["_palaestra"].link.ask("delattr", vars(self)["_palaestra_view"], name)


def _standard(kind: Any, args: list[Any]) -> Any:
    try:
        return kind(*args) if kind.__module__ == "builtins" else kind.__new__(kind, *args)
    except Exception:
        return _blank(kind)


def _blank(kind: Any) -> Any:
    return BaseException.__new__(kind)


def _like(kind: Any) -> dict[str, Any]:
    return {
        "__class__": property(lambda self: kind),
        "__doc__": property(lambda self: ask(self, "getattr", "__doc__")),
    }
