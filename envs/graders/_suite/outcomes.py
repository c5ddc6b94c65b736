"""What a test expects to be raised, and how it may end: `pytest.raises`, `warns`, `skip`, `fail`, `xfail`."""

from __future__ import annotations

import re
import sys
import warnings
from importlib import import_module
from typing import Any

from .link import Stopped
from .wire import is_a, kind_of


class Skipped(BaseException):
    """The test said that it does not apply. It has not passed then."""


class XFailed(BaseException):
    """The test said that it is expected to fail. It has not passed then."""


class Failed(AssertionError):
    """The test said so itself."""


class ExceptionInfo:
    """What `raises` caught."""

    def __init__(self) -> None:
        self.found: BaseException | None = None

    def __class_getitem__(cls, item: Any) -> Any:
        """For annotations."""
        return cls

    @property
    def value(self) -> Any:
        if self.found is None:
            raise AssertionError("nothing was raised yet: .value is for after the block")
        return self.found

    @property
    def type(self) -> Any:
        return kind_of(self.value)

    @property
    def tb(self) -> Any:
        return self.value.__traceback__

    def match(self, pattern: Any) -> bool:
        return _matches(pattern, self.value)

    def errisinstance(self, kind: Any) -> bool:
        return isinstance(self.value, kind)

    def __str__(self) -> str:
        return repr(self.found)


class _Raises:
    def __init__(self, expected: Any, match: Any, check: Any) -> None:
        self._expected = expected
        self._match = match
        self._check = check
        self._found = ExceptionInfo()

    def __enter__(self) -> ExceptionInfo:
        return self._found

    def __exit__(self, kind: Any, error: Any, trace: Any) -> bool:
        if kind is None:
            raise Failed(f"DID NOT RAISE {self._expected!r}")
        if isinstance(error, Stopped):
            error = error.__cause__
        if not isinstance(error, self._expected):
            return False
        self._found.found = error
        if self._match is not None:
            _matches(self._match, error)
        if self._check is not None and not self._check(error):
            raise Failed(f"{error!r} did not pass the check")
        return True


def raises(expected: Any, *call: Any, match: Any = None, check: Any = None, **options: Any) -> Any:
    """A block, or a function and its arguments, that must raise."""
    kinds: tuple[Any, ...] = expected if is_a(expected, tuple) else (expected,)
    if not kinds or not all(is_a(kind, type) and issubclass(kind, BaseException) for kind in kinds):
        raise TypeError(f"pytest.raises expects exception classes, got {expected!r}")
    block = _Raises(expected, match, check)
    if not call:
        return block
    function, *args = call
    with block as found:
        function(*args, **options)
    return found


def _matches(pattern: Any, error: Any) -> bool:
    if not re.search(pattern, str(error)):
        raise AssertionError(f"{pattern!r} does not match {str(error)!r}")
    return True


class _Warns(warnings.catch_warnings):
    def __init__(self, expected: Any, match: Any) -> None:
        super().__init__(record=True)
        self._expected = expected
        self._match = match
        self._list: Any = None

    def __enter__(self) -> Any:
        self._list = super().__enter__()
        warnings.simplefilter("always")
        return self._list

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        fits = [
            warning
            for warning in self._list
            if issubclass(warning.category, self._expected)
            and (self._match is None or re.search(self._match, str(warning.message)))
        ]
        if error[0] is None and not fits:
            raise Failed(f"DID NOT WARN {self._expected!r}")


def warns(expected: Any = Warning, *, match: Any = None) -> Any:
    return _Warns(expected, match)


def skip(reason: str = "", **options: Any) -> None:
    raise Skipped(reason)


def xfail(reason: str = "") -> None:
    raise XFailed(reason)


def fail(reason: str = "", **options: Any) -> None:
    raise Failed(reason)


def importorskip(name: str, *args: Any, **options: Any) -> Any:
    try:
        import_module(name)
    except ImportError as error:
        raise Skipped(str(error)) from None
    return sys.modules[name]
