"""The special methods that a stand-in has because its object has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .operations import ARITHMETIC
from .standins import arithmetic, ask, call, contains, is_remote, simple, stub_of


async def wait(self: Any, op: str, *args: Any) -> Any:
    return ask(self, op, *args)


def _awaited(op: str) -> Callable[..., Any]:
    def method(self: Any, *args: Any) -> Any:
        return wait(self, op, *args)

    return method


def _await(self: Any) -> Any:
    return wait(self, "await").__await__()


def _truth(self: Any) -> bool:
    return bool(ask(self, "bool"))


def _iterate(self: Any) -> Any:
    found = ask(self, "iter")
    return self if is_remote(found) and stub_of(found).number == stub_of(self).number else found


def _enter(self: Any) -> Any:
    found = ask(self, "enter")
    return self if is_remote(found) and stub_of(found).number == stub_of(self).number else found


def _exit(self: Any, kind: Any, error: Any, trace: Any) -> Any:
    return ask(self, "exit", kind, error, None)


def _aexit(self: Any, kind: Any, error: Any, trace: Any) -> Any:
    return wait(self, "aexit", kind, error, None)


METHODS: dict[str, Any] = {
    "__aenter__": _awaited("aenter"),
    "__aexit__": _aexit,
    "__aiter__": simple("aiter"),
    "__anext__": _awaited("anext"),
    "__await__": _await,
    "__bool__": _truth,
    "__call__": call,
    "__contains__": contains,
    "__delitem__": simple("delitem"),
    "__enter__": _enter,
    "__exit__": _exit,
    "__float__": simple("float"),
    "__fspath__": simple("fspath"),
    "__getitem__": simple("getitem"),
    "__index__": simple("index"),
    "__int__": simple("int"),
    "__iter__": _iterate,
    "__len__": simple("len"),
    "__next__": simple("next"),
    "__reversed__": simple("reversed"),
    "__setitem__": simple("setitem"),
    **{f"__i{name.rstrip('_')}__": arithmetic("i" + name.rstrip("_")) for name in ARITHMETIC},
}
"""By trait."""
