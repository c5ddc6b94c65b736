"""What can be asked of an object of the program, by name."""

from __future__ import annotations

import copy
import operator
import sys
from collections.abc import Callable
from importlib import import_module, util
from typing import Any

from .wire import BASES, kind_of

ARITHMETIC = (
    *("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul"),
    *("and_", "or_", "xor", "lshift", "rshift"),
)
UNARY = ("neg", "pos", "invert", "abs")
ORDER = ("lt", "le", "gt", "ge")
TRAITS = (
    *("__aenter__", "__aexit__", "__aiter__", "__anext__", "__await__", "__bool__", "__call__"),
    *("__contains__", "__delitem__", "__enter__", "__exit__", "__fspath__", "__getitem__", "__hash__"),
    *("__index__", "__int__", "__float__", "__iter__", "__len__", "__next__", "__reversed__", "__setitem__"),
    *(f"__i{name.rstrip('_')}__" for name in ARITHMETIC),
)
"""Methods whose very presence means something: a stand-in has those that its object has."""

_replaced: list[Any] = []


def traits(kind: type) -> list[str]:
    return [name for name in TRAITS if getattr(kind, name, None) is not None]


def _plain(value: Any) -> Any:
    """[what an object of a subclass of a plain type holds], of that plain type; [] for any other."""
    for base in BASES:
        if issubclass(type(value), base):
            return [_content(value, base)]
    return []


def _content(value: Any, base: Any) -> Any:
    name = {int: "__int__", float: "__float__", complex: "__pos__", dict: "items"}.get(base, "__iter__")
    found: Any = getattr(base, name)(value)
    if base is str:
        return "".join(found)
    return found if base in (int, float, complex) else base(found)


def _equal(first: Any, second: Any) -> bool:
    """Whether two objects of the program are equal, unless the first equals everything."""
    if not operator.eq(first, second):
        return False
    try:
        return not operator.eq(first, object())
    except Exception:
        # It looks for what only its like have.
        return True


def _call(function: Any, args: Any, kwargs: Any) -> Any:
    return function(*args, **kwargs)


def _method(name: str) -> Callable[..., Any]:
    """A special method, which is the class's."""

    def method(value: Any, *args: Any) -> Any:
        found: Any = getattr(kind_of(value), name)
        return found(value, *args)

    return method


def _awaited(name: str) -> Callable[..., Any]:
    def method(value: Any, *args: Any) -> Any:
        return _run(_method(name)(value, *args))

    return method


def _load(name: str, path: str) -> Any:
    """A module from a file."""
    spec = util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"no module in {path!r}")
    module = util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _patch(module: str, name: str, value: Any) -> None:
    """Replace what a module of the standard library holds, as the suite did on its side."""
    target = import_module(module)
    _replaced.append((target, name, getattr(target, name, None)))
    setattr(target, name, value)


def _restore() -> None:
    target, name, value = _replaced.pop()
    setattr(target, name, value)


def _run(awaitable: Any) -> Any:
    import asyncio

    global _loop
    if _loop is None:
        _loop = asyncio.new_event_loop()

    async def wait() -> Any:
        return await awaitable

    return _loop.run_until_complete(wait())


_loop: Any = None

OPERATIONS: dict[str, Callable[..., Any]] = {
    "abs": abs,
    "aenter": _awaited("__aenter__"),
    "aexit": _awaited("__aexit__"),
    "aiter": _method("__aiter__"),
    "anext": _awaited("__anext__"),
    "await": _run,
    "bool": bool,
    "call": _call,
    "contains": operator.contains,
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "delattr": delattr,
    "delitem": operator.delitem,
    "dir": dir,
    "divmod": divmod,
    "enter": _method("__enter__"),
    "equal": _equal,
    "exit": _method("__exit__"),
    "float": float,
    "format": format,
    "fspath": _method("__fspath__"),
    "getattr": getattr,
    "getitem": operator.getitem,
    "hash": hash,
    "import": import_module,
    "index": operator.index,
    "int": int,
    "iter": iter,
    "len": len,
    "load": _load,
    "next": next,
    "patch": _patch,
    "plain": _plain,
    "repr": repr,
    "restore": _restore,
    "reversed": reversed,
    "round": round,
    "setattr": setattr,
    "setitem": operator.setitem,
    "str": str,
    **{name: getattr(operator, name) for name in ORDER},
    **{name: getattr(operator, name) for name in ARITHMETIC},
    **{"i" + name.rstrip("_"): getattr(operator, "i" + name.rstrip("_")) for name in ARITHMETIC},
    **{name: getattr(operator, name) for name in UNARY if name != "abs"},
}
