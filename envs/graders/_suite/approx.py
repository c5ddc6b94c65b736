"""`pytest.approx`: numbers that are nearly equal, alone or in lists, tuples and dicts."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

from .standins import is_remote, plain_content
from .wire import is_a, kind_of

_NUMBERS = (int, float, complex, Decimal, Fraction)


class approx:
    """Equal to what is nearly as large.

    >>> 0.1 + 0.2 == approx(0.3), [1, 2.0000001] == approx([1, 2]), 2.1 == approx(2, abs=0.2)
    (True, True, True)
    """

    __hash__ = None  # type: ignore[assignment]
    __array_ufunc__ = None
    __array_priority__ = 100

    def __init__(self, expected: Any, rel: Any = None, abs: Any = None, nan_ok: bool = False) -> None:
        self.expected = expected
        self._rel, self._abs, self._nan_ok = rel, abs, nan_ok

    def __repr__(self) -> str:
        return f"approx({self.expected!r})"

    def __eq__(self, actual: Any) -> bool:
        return self._fits(self.expected, actual)

    def __ne__(self, actual: Any) -> bool:
        return not self == actual

    def _fits(self, expected: Any, actual: Any) -> bool:
        if is_remote(actual):
            content = plain_content(actual)
            if not content:
                return False
            actual = content[0]
        if is_a(expected, dict):
            if not is_a(actual, dict) or set(actual) != set(expected):
                return False
            return all(self._fits(item, actual[key]) for key, item in expected.items())
        if is_a(expected, (list, tuple)):
            if not is_a(actual, kind_of(expected)) or len(actual) != len(expected):
                return False
            return all(self._fits(*pair) for pair in zip(expected, actual))
        if kind_of(expected) not in _NUMBERS or kind_of(actual) not in (*_NUMBERS, bool):
            return bool(expected == actual)
        return self._is_near(expected, actual)

    def _is_near(self, expected: Any, actual: Any) -> bool:
        if expected == actual:
            return True
        if expected != expected or actual != actual:
            return self._nan_ok and expected != expected and actual != actual
        if math.isinf(abs(expected)) or math.isinf(abs(actual)):
            return False
        kind: Any = kind_of(expected) if is_a(expected, (Decimal, Fraction)) else float
        absolute = kind(1e-12 if self._abs is None else self._abs)
        is_relative = self._rel is not None or self._abs is None
        relative = kind(1e-6 if self._rel is None else self._rel) * abs(expected) if is_relative else kind(0)
        other = kind(actual) if kind is not float else actual
        return bool(abs(other - expected) <= max(relative, absolute))
