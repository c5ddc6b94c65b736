"""Stand-ins, in the suite's process, for objects that live in the program's.

A question to a stand-in is put to the program, and what comes back is a plain value or another stand-in. Not
asked is what would hand the expected value over: an object that the program returned is compared with a plain
value here, by its own plain content, and has none unless its class is a subclass of a plain type.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

from .operations import ARITHMETIC, ORDER, UNARY

SUBJECT, NAMED, ANSWER, TOLD = "subject", "named", "answer", "told"
"""How far a stand-in is believed. A subject was made by the suite, of a class that it named: all is asked. An
answer came back from a call: asked is what does not carry the expected value. Told: an answer that was
combined with a plain value, as in `f(x) - 4`; it has no plain content any more. Named: a class is
itself if the suite's name for it looks like a class's, and anything else an answer."""


class Stub(NamedTuple):
    """What a stand-in stands for."""

    link: Any
    number: int
    trust: str


class RemoteType(type):
    """The class of the stand-ins for classes."""

    def __new__(mcls, name: str, bases: tuple[type, ...], space: dict[str, Any]) -> Any:
        if "_palaestra_stub" not in space:
            raise TypeError(
                f"the suite derives {name} from a class of the program, which lives in another sandbox; "
                "test the class itself, or hand it an object"
            )
        return super().__new__(mcls, name, bases, space)

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        stub: Stub = cls._palaestra_stub
        return stub.link.call(cls, args, kwargs, trust=SUBJECT)

    def __getattr__(cls, name: str) -> Any:
        return stub_of(cls).link.ask("getattr", cls, name, trust=trust_of(name))

    def __setattr__(cls, name: str, value: Any) -> None:
        ask(cls, "setattr", name, value)

    def __delattr__(cls, name: str) -> None:
        ask(cls, "delattr", name)

    def __dir__(cls) -> Any:
        return ask(cls, "dir")

    def __iter__(cls) -> Any:
        return iter(ask(cls, "iter"))

    def __len__(cls) -> int:
        return int(ask(cls, "len"))

    def __bool__(cls) -> bool:
        return True

    def __contains__(cls, item: Any) -> bool:
        return bool(ask(cls, "contains", item))

    def __getitem__(cls, key: Any) -> Any:
        return ask(cls, "getitem", key)


_COLLECTING = (
    *("add", "append", "clear", "copy", "discard", "extend", "get", "insert", "items", "keys", "pop"),
    *("popitem", "remove", "reverse", "setdefault", "sort", "update", "values"),
)
_TELLING = {name for kind in (str, list, dict, set, float) for name in dir(kind)}.difference(_COLLECTING)
"""Methods of plain types that answer about their argument: for an answer, only its plain content has them."""


class RemoteObject(metaclass=RemoteType):
    """A stand-in for an object that is no class."""

    __slots__ = ("__weakref__", "_palaestra")
    _palaestra_stub = None
    _palaestra: Stub

    def __getattr__(self, name: str) -> Any:
        return attribute(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        ask(self, "setattr", name, value)

    def __delattr__(self, name: str) -> None:
        ask(self, "delattr", name)

    def __dir__(self) -> Any:
        return ask(self, "dir")

    def __repr__(self) -> str:
        return str(ask(self, "repr"))

    def __str__(self) -> str:
        return str(ask(self, "str"))

    def __format__(self, form: str) -> str:
        return str(ask(self, "format", form))

    def __round__(self, *digits: Any) -> Any:
        return ask(self, "round", *digits)

    def __copy__(self) -> Any:
        return ask(self, "copy")

    def __deepcopy__(self, memo: Any) -> Any:
        return ask(self, "deepcopy")

    def __eq__(self, other: Any) -> bool:
        if is_remote(other):
            return bool(stub_of(self).link.ask("equal", self, other))
        content = plain_content(self)
        return bool(content and content[0] == other)

    def __ne__(self, other: Any) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(ask(self, "hash"))

    def __bool__(self) -> bool:
        return True


class RemoteClass(RemoteObject):
    """A class that came as an answer: the suite has not named it, and asks it no more than other answers."""

    __slots__ = ("_palaestra_kind",)
    _palaestra_stub = None
    _palaestra_kind: Any

    def __instancecheck__(self, value: Any) -> bool:
        return isinstance(value, self._palaestra_kind)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return call(self, *args, **kwargs)

    def __iter__(self) -> Any:
        return iter(ask(self, "iter"))

    def __getitem__(self, key: Any) -> Any:
        return ask(self, "getitem", key)


def stub_of(value: Any) -> Stub:
    """Of a stand-in."""
    stub: Stub = (
        type.__getattribute__(value, "_palaestra_stub") if isinstance(value, type) else value._palaestra
    )
    return stub


def trust_of(name: str) -> str:
    """How far to believe that what the suite calls so is a class: the program may make anything one."""
    return NAMED if name.lstrip("_")[:1].isupper() else ANSWER


def is_remote(value: Any) -> bool:
    return isinstance(type(value), RemoteType) or isinstance(value, RemoteType)


def plain_content(value: Any) -> Any:
    """[the content] of a stand-in whose class derives from a plain type; [] for all others."""
    stub = stub_of(value)
    return stub.link.ask("plain", value) if stub.trust != TOLD else []


def ask(self: Any, op: str, *args: Any) -> Any:
    stub = stub_of(self)
    trust = TOLD if stub.trust == TOLD else ANSWER
    return _unless_told(stub.link.ask(op, self, *args, trust=trust), trust, op)


def attribute(self: Any, name: str) -> Any:
    if name.startswith("__array"):
        raise AttributeError(name)  # numpy would believe an address in it
    value = ask(self, "getattr", name)
    if name in _TELLING and stub_of(self).trust != SUBJECT and callable(value):
        return _asked_with_care(self, name, value)
    return value


def call(self: Any, *args: Any, **kwargs: Any) -> Any:
    stub = stub_of(self)
    trust = TOLD if stub.trust == TOLD else ANSWER
    return _unless_told(stub.link.call(self, args, kwargs, trust=trust), trust, "call")


def _unless_told(answer: Any, trust: str, op: str) -> Any:
    if trust == TOLD and not is_remote(answer):
        raise TypeError(
            f"the program returned an object that is no plain value, and {op} of what it gives with a plain "
            "value is not believed: it knows from that value what to answer; compare what the object holds"
        )
    return answer


def _asked_with_care(self: Any, name: str, method: Any) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        if all(is_remote(item) for item in (*args, *kwargs.values())):
            return method(*args, **kwargs)
        content = plain_content(self)
        if not content:
            raise TypeError(
                f"the program returned an object that is no plain value, and .{name}(...) would tell it what "
                "is expected; compare what the object holds"
            )
        return getattr(content[0], name)(*args, **kwargs)

    return call


def arithmetic(op: str, *, is_reflected: bool = False) -> Callable[[Any, Any], Any]:
    def method(self: Any, other: Any) -> Any:
        stub = stub_of(self)
        trusts = {stub.trust, stub_of(other).trust if is_remote(other) else "plain"}
        if trusts <= {SUBJECT, "plain"}:
            trust = SUBJECT
        else:
            trust = TOLD if "plain" in trusts or TOLD in trusts else ANSWER
        pair = (other, self) if is_reflected else (self, other)
        return _unless_told(stub.link.ask(op, *pair, trust=trust), trust, op)

    return method


def _order(op: str) -> Callable[[Any, Any], bool]:
    def method(self: Any, other: Any) -> bool:
        link = stub_of(self).link
        if is_remote(other):
            return bool(link.ask(op, self, other))
        content = plain_content(self)
        if not content:
            raise TypeError(
                f"{op} of an object of the program and {other!r:.80}: compare what the object holds"
            )
        return bool(getattr(operator, op)(content[0], other))

    return method


def contains(self: Any, item: Any) -> bool:
    if stub_of(self).trust == SUBJECT or is_remote(item):
        return bool(ask(self, "contains", item))
    content = plain_content(self)
    return item in (content[0] if content else list(self))


def simple(op: str) -> Callable[..., Any]:
    def method(self: Any, *args: Any) -> Any:
        return ask(self, op, *args)

    return method


for _name in ARITHMETIC:
    _word = _name.rstrip("_")
    type.__setattr__(RemoteObject, f"__{_word}__", arithmetic(_name))
    type.__setattr__(RemoteObject, f"__r{_word}__", arithmetic(_name, is_reflected=True))
for _name in ORDER:
    type.__setattr__(RemoteObject, f"__{_name}__", _order(_name))
for _name in UNARY:
    type.__setattr__(RemoteObject, f"__{_name}__", simple(_name))
type.__setattr__(RemoteObject, "__divmod__", arithmetic("divmod"))
