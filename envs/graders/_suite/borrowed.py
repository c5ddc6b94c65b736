"""What the program has of the suite: stand-ins for what it was handed, its input, its output."""

from __future__ import annotations

import inspect
import io
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from .wire import Frame


class Lent:
    """Stands for an object of the suite that was handed to the program: what it is asked is asked there."""

    def __init__(self, ask: Callable[..., Any], number: int, facts: dict[str, Any]) -> None:
        self.__dict__["_lent"] = (ask, number)
        self.__dict__.update(facts)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        ask, _ = self.__dict__["_lent"]
        return ask("getattr", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("__"):  # functools.wraps and its like, on the stand-in
            self.__dict__[name] = value
        else:
            self.__dict__["_lent"][0]("setattr", self, name, value)


def trait(name: str) -> Callable[..., Any]:
    operation = {"__and__": "and_", "__or__": "or_"}.get(name, name.strip("_"))

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        ask, _ = self.__dict__["_lent"]
        return ask("call", self, args, kwargs) if name == "__call__" else ask(operation, self, *args)

    return method


def signature(parameters: list[list[Any]]) -> Frame:
    """What a decorator may look at: `inspect.signature`, and the count of arguments."""
    empty = inspect.Parameter.empty
    found = [
        inspect.Parameter(name, getattr(inspect.Parameter, kind), default=None if is_optional else empty)
        for name, kind, is_optional in parameters
    ]
    names = [parameter.name for parameter in found if parameter.kind == parameter.POSITIONAL_OR_KEYWORD]
    code = type("code", (), {"co_argcount": len(names), "co_varnames": tuple(names)})
    return {"__signature__": inspect.Signature(found), "__code__": code}


class Printed:
    """What is written to descriptor 1 or 2, by whomever, in a file that nobody has a name for."""

    def __init__(self, descriptor: int) -> None:
        name = "." + os.urandom(8).hex()
        self._file = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        os.unlink(name)
        os.dup2(self._file, descriptor)
        self._stream = (sys.stdout, sys.stderr)[descriptor - 1]
        self._at = 0

    def take(self) -> str:
        with suppress(AttributeError, OSError, ValueError):  # the program closed it
            self._stream.flush()
        data = os.pread(self._file, 1 << 20, self._at)
        self._at += len(data)
        return data.decode("utf-8", "replace")


class Stdin(io.TextIOBase):
    """Reads what the suite has put into its own `sys.stdin`."""

    def __init__(self, ask: Callable[..., Any]) -> None:
        self._ask = ask

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> str:
        text: str = self._ask("stdin", "read", -1 if size is None else size)
        return text

    def readline(self, size: int | None = -1, /) -> str:  # type: ignore[override]  # TextIOBase does so too
        text: str = self._ask("stdin", "readline", -1 if size is None else size)
        return text
