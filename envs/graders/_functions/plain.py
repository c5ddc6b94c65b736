"""Plain functions in worker processes: which one is asked, and the far side, where it is called."""

import asyncio
import importlib
import inspect
import os
import pickle
import sys
from collections.abc import Awaitable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from ...errors import Tampered, is_retryable, text_of
from ...outcome import Score
from ...worker import Worker
from .host import load_module, told
from .reply import RewardFailed, read_plain
from .workers import Workers

CONCURRENCY = 16


@dataclass(frozen=True, slots=True)
class Code:
    """A Python file as it was when it was loaded here, or a module that can be imported."""

    name: str
    source: bytes | None = None
    """None of a module."""

    @classmethod
    def at(cls, file: str) -> "Code":
        """Raises `OSError`."""
        if not file.endswith(".py"):
            return cls(file)
        return cls(os.path.abspath(file), Path(file).read_bytes())

    def module(self) -> ModuleType:
        """Loaded once in a process."""
        if self.source is None:
            return importlib.import_module(self.name)
        return load_module(self.name, self.source)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a module looks for files and for other modules."""

    folder: str
    path: tuple[str, ...]

    @classmethod
    def here(cls) -> "Place":
        return cls(os.getcwd(), tuple(sys.path))

    def enter(self) -> None:
        os.chdir(self.folder)
        sys.path[:] = self.path


class PlainCall:
    """A function that a worker process finds in its file or module by its name."""

    def __init__(
        self, code: Code, name: str, *, concurrency: int = CONCURRENCY, timeout_s: float | None = None
    ) -> None:
        """`concurrency`: processes at most. `timeout_s`: of one call, without its wait for a process; None:
        as long as somebody waits. Raises `ValueError`."""
        for option, value in (("concurrency", concurrency), ("timeout_s", timeout_s)):
            if value is not None and value <= 0:
                raise ValueError(f"{option} is {value}; it must be over 0")
        self._code, self._name = code, name
        self._concurrency, self._timeout_s = concurrency, timeout_s
        self._workers = Workers(Path(code.name).name, self._load, most=concurrency, timeout_s=timeout_s)

    async def __call__(self, arguments: Mapping[str, Any], *, is_batched: bool) -> Score:
        """Raises `RewardFailed`, which has the words of the function, and `Tampered`."""
        try:
            packed = pickle.dumps(dict(arguments))
        except Exception as error:  # every kind: foreign classes pickle themselves
            raise TypeError(
                f"the arguments {', '.join(arguments)} cannot go to a worker process: {error}; let the "
                "function ask for others, or write a grader, a class with `grade`, which runs in this process"
            ) from error
        return await self._workers.call(call_plain, Place.here(), self._code, self._name, packed, is_batched)

    async def check(self) -> None:
        """Raise `RewardFailed` where a worker process cannot load the function's file."""
        await self._workers.call(load_plain, Place.here(), self._code)

    def __reduce__(self) -> tuple[Any, ...]:
        made = partial(PlainCall, concurrency=self._concurrency, timeout_s=self._timeout_s)
        return made, (self._code, self._name)

    async def _load(self, worker: Worker) -> None:
        await worker.call(load_plain, Place.here(), self._code)


# In the worker process: a loop that stays, for what a function keeps in it, such as a client's connections.
_runner = asyncio.Runner()


def load_plain(place: Place, code: Code) -> None:
    """Raises `RewardFailed` for a file that cannot be loaded."""
    try:
        place.enter()
        code.module()
    except BaseException as error:  # every kind: the file's, and told as such
        raise _failed(error, code.name) from error


def call_plain(place: Place, code: Code, name: str, packed: bytes, is_batched: bool) -> Score:
    """What the function says. Raises `RewardFailed` and `Tampered`."""
    file = code.name
    try:
        place.enter()
        module = code.module()
        file = getattr(module, "__file__", None) or file
        said = getattr(module, name)(**pickle.loads(packed))
        if inspect.isawaitable(said):
            said = _runner.run(_awaited(said))
        return read_plain(said, is_batched=is_batched)
    except Tampered as found:
        raise Tampered(text_of(found)) from found
    except BaseException as error:  # every kind: the function's own
        raise _failed(error, file) from error
    finally:
        with suppress(OSError, ValueError, AttributeError):  # nobody reads it any more, or it was closed
            sys.stdout.flush()


async def _awaited(said: Awaitable[Any]) -> Any:
    return await said


def _failed(error: BaseException, file: str) -> RewardFailed:
    failed = RewardFailed(told(error, file))
    failed.is_retryable = isinstance(error, Exception) and is_retryable(error)
    return failed
