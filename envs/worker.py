"""Worker processes for code that blocks: long-lived, one call at a time, killed when nobody waits any more.

>>> await in_worker(slow_function, argument)
"""

import asyncio
import atexit
import io
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing import connection, current_process, get_context, parent_process
from typing import ClassVar, Generic, ParamSpec, TypeVar
from weakref import WeakKeyDictionary, WeakSet

from .errors import CodePanicked, no_exit, text_of

P = ParamSpec("P")
T = TypeVar("T")

MAX_IDLE = os.cpu_count() or 1
"""Processes that are kept for the next call, of ours and of foreign code each."""
_GUARD = "it imports the program that runs: what that does must stand under `if __name__ == '__main__':`"


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """What comes back from a worker process."""

    value: T
    error: Exception | None = None


class WorkerDied(Exception):
    """The process ended under a call: killed, out of memory, or crashed in native code."""

    def __init__(self, exit_code: int | None, *, has_started: bool = True) -> None:
        when = "" if has_started else " before it had started"
        cure = f"; {_GUARD}" if exit_code == 1 and not has_started else ""
        super().__init__(f"worker process ended with exit code {exit_code}{when}{cure}")
        self.exit_code = exit_code
        """As in `multiprocessing`: -9 after SIGKILL."""
        self.has_started = has_started


class Worker:
    """One process. Functions travel by import path, arguments and results by pickle."""

    _idle: ClassVar[Mapping[bool, list["Worker"]]] = {False: [], True: []}
    _living: ClassVar[WeakSet["Worker"]] = WeakSet()

    def __init__(self, *, is_foreign: bool = False) -> None:
        # spawn, not fork: a fork copies the locks of threads that it does not copy.
        context = get_context("spawn")
        self._link, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True, name="palaestra-worker")
        self._process.start()
        theirs.close()
        self._living.add(self)
        self._is_foreign, self._owner = is_foreign, os.getpid()
        self._has_started = False
        self.is_usable = True
        """False from the start of a call to its answer, and for ever when there was none."""
        self._exit_code: int | None = None
        self._is_killed = False

    @classmethod
    def hire(cls, *, is_foreign: bool = False) -> "Worker":
        """An idle worker, or a new one. Foreign code may change its process for good: ours gets others."""
        idle = cls._idle[is_foreign]
        while idle:
            worker = idle.pop()
            if not worker._has_ended(0.0):
                return worker
            worker.kill()
        return cls(is_foreign=is_foreign)

    def release(self) -> None:
        """Keep the process for the next call, unless a call was cut off or enough of them wait."""
        idle = self._idle[self._is_foreign]
        if self.is_usable and len(idle) < MAX_IDLE:
            idle.append(self)
        else:
            self.kill()

    @classmethod
    def end_idle(cls) -> None:
        """End the processes that wait for work."""
        for idle in cls._idle.values():
            while idle:
                idle.pop().kill()

    @classmethod
    def end_all(cls) -> None:
        """End every process, with what it has started; not those of the process that this is a fork of."""
        for worker in tuple(cls._living):
            if worker._owner == os.getpid():
                worker.kill()

    async def start(self) -> None:
        """Wait until the process can take a call. Raises `WorkerDied`."""
        if not self._has_started:
            await self._reply(None)
            self._has_started = True

    async def call(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """What `function` returns or raises. Cancelling the wait kills the process. Raises `WorkerDied`."""
        request = pickle.dumps((function, args, kwargs))
        await self.start()  # until then a large request would hold up the event loop
        answer: Answer[T] = pickle.loads(await self._reply(request))
        if answer.error is not None:
            raise answer.error
        return answer.value

    async def _reply(self, request: bytes | None) -> bytes:
        """To a request, or to None what comes first of all."""
        self.is_usable = False
        try:
            if request is not None:
                self._link.send_bytes(request)
            await _readable(self._link.fileno())
            reply = self._link.recv_bytes()
        except (EOFError, ConnectionError) as error:
            self._has_ended(1.0)  # the link closes a moment before the process has its exit code
            self.kill()
            raise WorkerDied(self._exit_code, has_started=self._has_started) from error
        except asyncio.CancelledError:
            self.kill()
            raise
        self.is_usable = True
        return reply

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


# Not left to multiprocessing, whose SIGTERM foreign code may handle, and which knows no grandchildren.
atexit.register(Worker.end_all)

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
    own = os.getpid()
    os.setsid()  # a group of its own: one signal ends its children too, and Ctrl-C in a terminal none of them
    current_process().daemon = False  # or what it runs could start no process
    out = sys.stdout
    if isinstance(out, io.TextIOWrapper):  # what is printed comes out, even if the process is killed
        out.reconfigure(line_buffering=True)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    link.send_bytes(b"")  # it has started
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
        except BaseException as error:  # nobody presses Ctrl-C here: it is the function's
            told = f"{type(error).__name__}: {text_of(error)}; code in a run must raise an Exception"
            reply = pickle.dumps(Answer(None, CodePanicked(told)))
        if os.getpid() != own:
            os._exit(0)  # a fork that the function made, and that came back as well
        link.send_bytes(reply)


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os.killpg(0, signal.SIGKILL)


def _portable(error: Exception) -> Exception:
    """The error, or a `RuntimeError` with its text where pickle cannot carry it; its traceback is a note."""
    note = "".join(traceback.format_exception(error))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # every kind: foreign classes pickle themselves
        error = RuntimeError(f"{type(error).__name__}: {text_of(error)}")
    error.add_note(note)
    return error
