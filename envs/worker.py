"""Worker processes for code that blocks: long-lived, one call at a time, killed when nobody waits any more.

>>> await in_worker(slow_function, argument)
"""

import asyncio
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process
from typing import ClassVar, Generic, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

from .errors import CodePanicked, no_exit, text_of

P = ParamSpec("P")
T = TypeVar("T")

MAX_IDLE = os.cpu_count() or 1
"""Processes that are kept for the next call."""


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """What comes back from a worker process."""

    value: T
    error: Exception | None = None


class WorkerDied(Exception):
    """The process ended under a call: killed, out of memory, or crashed in native code."""

    def __init__(self, exit_code: int | None) -> None:
        super().__init__(f"worker process ended with exit code {exit_code}")
        self.exit_code = exit_code
        """As in `multiprocessing`: -9 after SIGKILL."""


class Worker:
    """One process. Functions travel by import path, arguments and results by pickle."""

    _idle: ClassVar[list["Worker"]] = []

    def __init__(self) -> None:
        # spawn, not fork: a fork copies the locks of threads that it does not copy.
        context = get_context("spawn")
        self._link, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True, name="palaestra-worker")
        self._process.start()
        theirs.close()
        self.is_usable = True
        """False from the start of a call to its answer, and for ever when there was none."""
        self._exit_code: int | None = None
        self._is_killed = False

    @classmethod
    def hire(cls) -> "Worker":
        """An idle worker, or a new one."""
        while cls._idle:
            worker = cls._idle.pop()
            if not worker._has_ended(0.0):
                return worker
            worker.kill()
        return cls()

    def release(self) -> None:
        """Keep the process for the next call, unless a call was cut off or enough of them wait."""
        if self.is_usable and len(self._idle) < MAX_IDLE:
            self._idle.append(self)
        else:
            self.kill()

    @classmethod
    def end_idle(cls) -> None:
        """End the processes that wait for work."""
        while cls._idle:
            cls._idle.pop().kill()

    async def call(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """What `function` returns or raises. Cancelling the wait kills the process. Raises `WorkerDied`."""
        request = pickle.dumps((function, args, kwargs))
        self.is_usable = False
        try:
            self._link.send_bytes(request)
            await _readable(self._link.fileno())
            reply = self._link.recv_bytes()
        except (EOFError, ConnectionError) as error:
            self._has_ended(1.0)  # the link closes a moment before the process has its exit code
            self.kill()
            raise WorkerDied(self._exit_code) from error
        except asyncio.CancelledError:
            self.kill()
            raise
        self.is_usable = True
        answer: Answer[T] = pickle.loads(reply)
        if answer.error is not None:
            raise answer.error
        return answer.value

    def kill(self) -> None:
        """End the process and what it started. Safe to call twice."""
        if self._is_killed:
            return
        self._is_killed, self.is_usable = True, False
        assert self._process.pid is not None
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:  # too young to have a group of its own
            self._process.kill()
        self._process.join()
        self._exit_code = self._process.exitcode
        self._process.close()
        self._link.close()

    def _has_ended(self, wait_s: float) -> bool:
        # Not is_alive(): that reaps the process, and the pid that `kill` aims at may then be another's.
        return bool(connection.wait([self._process.sentinel], timeout=wait_s))


_slots: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()


async def in_worker(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """`function(*args)` in a worker process, as many at a time as there are cores."""
    async with _slots.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(MAX_IDLE)):
        worker = Worker.hire()
        try:
            return await worker.call(function, *args, **kwargs)
        finally:
            worker.release()


async def _readable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(fd, lambda: None if ready.done() else ready.set_result(None))
    try:
        await ready
    finally:
        loop.remove_reader(fd)


def _serve(link: connection.Connection) -> None:
    """The life of a worker process."""
    os.setsid()  # a group of its own: one signal ends its children too, and Ctrl-C in a terminal none of them
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            request = link.recv_bytes()
        except EOFError:
            return
        try:
            function, args, kwargs = pickle.loads(request)
            with no_exit():
                reply = pickle.dumps(Answer(function(*args, **kwargs)))
        except KeyboardInterrupt as error:  # of the function: Ctrl-C in a terminal does not come here
            told = f"KeyboardInterrupt: {text_of(error)}; code in a run must raise an Exception"
            reply = pickle.dumps(Answer(None, CodePanicked(told)))
        except Exception as error:  # every kind: it is raised again in the parent
            reply = pickle.dumps(Answer(None, _portable(error)))
        link.send_bytes(reply)


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def _portable(error: Exception) -> Exception:
    """The error, or a `RuntimeError` with its text where pickle cannot carry it; its traceback is a note."""
    note = "".join(traceback.format_exception(error))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # every kind: foreign classes pickle themselves
        error = RuntimeError(f"{type(error).__name__}: {text_of(error)}")
    error.add_note(note)
    return error
