"""What crosses the wall between suite and program: frames of JSON, and values with a tag for their type.

A plain value crosses as a copy. Anything else stays where it is, and a number that stands for it crosses.
To decode runs nothing that the sender chooses, but for the constructors in `_VALUES`.
"""

from __future__ import annotations

import builtins
import json
import sys
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import TypeAlias

Frame: TypeAlias = "dict[str, Any]"

MAX_FRAME = 1 << 23
"""Bytes."""
MAX_DEPTH = 100
MUTABLE = (list, dict, set, bytearray)
"""Arguments of these types come back changed when the callee changed them."""
BASES = (int, float, complex, str, bytes, tuple, list, dict, set, frozenset)
"""A subclass of one of these is compared by its plain content."""

_SEQUENCES: dict[type, str] = {list: "l", tuple: "t", set: "s", frozenset: "f"}
_BUILDERS: dict[str, Any] = {tag: kind for kind, tag in _SEQUENCES.items()}
_TYPES: dict[str, Any] = {
    kind.__name__: kind for kind in (bool, bytearray, type(None), object, range, *BASES)
}
_TYPES.update(
    (name, kind)
    for name, kind in vars(builtins).items()
    if isinstance(kind, type) and issubclass(kind, BaseException)
)
_DIGITS = 63
"""Bits of an integer that crosses in decimal: Python refuses longer texts than 4,300 digits."""

Parts: TypeAlias = "Callable[[Any], list[Any]]"
_VALUES: dict[tuple[str, str], Parts] = {
    ("builtins", "complex"): lambda v: [v.real, v.imag],
    ("builtins", "range"): lambda v: [v.start, v.stop, v.step],
    ("builtins", "slice"): lambda v: [v.start, v.stop, v.step],
    ("collections", "Counter"): lambda v: [dict(v)],
    ("collections", "OrderedDict"): lambda v: [list(v.items())],
    ("collections", "defaultdict"): lambda v: [
        v.default_factory if v.default_factory in _TYPES.values() else None,
        dict(v),
    ],
    ("collections", "deque"): lambda v: [list(v), v.maxlen],
    ("datetime", "date"): lambda v: [v.year, v.month, v.day],
    ("datetime", "datetime"): lambda v: [
        *(v.year, v.month, v.day, v.hour, v.minute, v.second, v.microsecond, v.tzinfo)
    ],
    ("datetime", "time"): lambda v: [v.hour, v.minute, v.second, v.microsecond, v.tzinfo],
    ("datetime", "timedelta"): lambda v: [v.days, v.seconds, v.microseconds],
    ("datetime", "timezone"): lambda v: [v.utcoffset(None)],
    ("decimal", "Decimal"): lambda v: [str(v)],
    ("fractions", "Fraction"): lambda v: [v.numerator, v.denominator],
    ("pathlib", "PosixPath"): lambda v: [str(v)],
    ("pathlib", "PurePosixPath"): lambda v: [str(v)],
    ("uuid", "UUID"): lambda v: [v.hex],
    ("zoneinfo", "ZoneInfo"): lambda v: [v.key],
}


class Codec:
    """Values to what JSON can hold and back. `root` is this side's workspace: text that names a file in it
    arrives with the other side's."""

    def __init__(
        self,
        root: str,
        lend: Callable[[Any], list[Any]],
        borrow: Callable[[str, list[Any]], Any],
    ) -> None:
        self._depth = 0
        self._root = root
        self._lend = lend
        self._borrow = borrow

    def encode(self, value: Any) -> Any:
        """`RecursionError` for what is nested deeper than the other side may decode."""
        self._depth += 1
        try:
            if self._depth > MAX_DEPTH:
                raise RecursionError(f"a value of more than {MAX_DEPTH} levels")
            return self._encode(value)
        finally:
            self._depth -= 1

    def _encode(self, value: Any) -> Any:
        kind = kind_of(value)
        if value is None or kind is bool or kind is float:
            return value
        if kind is int:
            return value if value.bit_length() <= _DIGITS else ["i", hex(value)]
        if kind is str:
            return ["w", *value.split(self._root)] if self._root in value else value
        if kind in _SEQUENCES:
            return [_SEQUENCES[kind], *map(self.encode, value)]
        if kind is dict:
            return ["d", *([self.encode(key), self.encode(item)] for key, item in value.items())]
        if kind is bytes or kind is bytearray:
            return ["b" if kind is bytes else "B", value.hex()]
        if value is Ellipsis or value is NotImplemented:
            return ["e", value is Ellipsis]
        if is_a(value, type):
            name = kind_name(value)
            return ["y", name] if _TYPES.get(name) is value else self._lend(value)
        module, name = kind.__module__.replace("pathlib._local", "pathlib"), kind.__name__
        parts = _VALUES.get((module, name))
        if parts is not None and getattr(sys.modules.get(module), name, None) is kind:
            return ["v", module, name, *map(self.encode, parts(value))]
        return self._lend(value)

    def decode(self, data: Any) -> Any:
        """Raises whatever a text that `encode` did not write leads to."""
        if kind_of(data) is not list:
            if kind_of(data) is dict:
                raise ValueError("an object of JSON is no value")
            return data
        tag: Any = data[0]
        parts: list[Any] = data[1:]
        if tag in _BUILDERS:
            return _BUILDERS[tag](map(self.decode, parts))
        if tag == "d":
            return {self.decode(key): self.decode(item) for key, item in parts}
        if tag == "w":
            return self._root.join(parts)
        if tag == "i":
            return int(parts[0], 16)
        if tag == "b" or tag == "B":
            content = bytes.fromhex(parts[0])
            return content if tag == "b" else bytearray(content)
        if tag == "e":
            return Ellipsis if parts[0] else NotImplemented
        if tag == "y":
            return _TYPES[parts[0]]
        if tag == "v":
            module, name, *rest = parts
            _VALUES[module, name]  # a KeyError for any other name
            return getattr(import_module(module), name)(*map(self.decode, rest))
        return self._borrow(tag, parts)


def kind_of(value: object) -> type:
    """The exact class; `value` keeps the type that it has for a checker."""
    return type(value)


def kind_name(kind: Any) -> str:
    return str(kind.__name__)


def is_a(value: object, kind: Any) -> bool:
    return isinstance(value, kind)


def pack(frame: Frame) -> bytes:
    data = json.dumps(frame, separators=(",", ":")).encode()
    if len(data) > MAX_FRAME:
        raise ValueError(f"{len(data)} bytes at once, over {MAX_FRAME}")
    return b"%08x" % len(data) + data


class Frames:
    """Frames out of chunks of bytes, as `read` gives them; b"" ends the stream."""

    def __init__(self, read: Callable[[], bytes]) -> None:
        self._read = read
        self._bytes = bytearray()

    def next(self) -> Frame:
        """Raises `EOFError` at the end, `ValueError` or `RecursionError` for what `pack` did not write."""
        size = int(self._take(8), 16)
        if not 0 <= size <= MAX_FRAME:
            raise ValueError(f"a frame of {size} bytes")
        frame: Frame = json.loads(self._take(size))
        if kind_of(frame) is not dict:
            raise ValueError(f"a frame that is a {kind_of(frame).__name__}")
        return frame

    @property
    def rest(self) -> bytes:
        """What came behind the last frame."""
        return bytes(self._bytes)

    def _take(self, size: int) -> bytes:
        while len(self._bytes) < size:
            chunk = self._read()
            if not chunk:
                raise EOFError("the stream ended")
            self._bytes += chunk
        taken = bytes(self._bytes[:size])
        del self._bytes[:size]
        return taken


def same(first: Any, second: Any) -> bool:
    """Whether two values cross alike: equal, of equal types, in the same order."""
    return bool(json.dumps(first) == json.dumps(second))
