"""The first process of a sandbox: it builds the walls, then answers the driver until the socket closes.

driver ──frame──> supervisor ──fork──> program            one socket per sandbox, held by these two only
   end of file on that socket (closed, or the driver was killed): everything dies with the supervisor
"""

import os
import resource
import signal
from collections.abc import Callable
from typing import Protocol

from . import files, linux, wire
from .execution import Cell, Ended, Execution, Order
from .pages import Pages
from .program import Program
from .wire import Header

_OPEN_FILES = 256
"""Descriptors a process may hold. Socket and pipe buffers are memory that nothing else here counts."""
_SPACE = 4 << 30
"""Bytes of address space over memory_mb: threads and allocators reserve much more than they touch."""


class Home(Cell, Protocol):
    """A cell with a workspace, as a tier makes it."""

    workspace: int
    """The open workspace directory."""

    def leave(self) -> None:
        """Free what outlives the processes."""
        ...


class Children:
    """How a supervisor's processes ended. Orphans too: unreaped, they would fill the process limit."""

    def __init__(self) -> None:
        self._ended: Ended = {}
        linux.set_handler(signal.SIGCHLD, self._on_end)

    def reap_one(self, flags: int) -> bool:
        """False when no child is left, or none has ended yet under WNOHANG."""
        try:
            pid, status, usage = os.wait4(-1, flags)
        except ChildProcessError:
            return False
        if pid:
            self._ended[pid] = (status, usage)
        return bool(pid)

    def reap(self, flags: int) -> None:
        while self.reap_one(flags):
            pass

    def _on_end(self, _number: int, _frame: object) -> None:
        self.reap(os.WNOHANG)

    def take(self) -> Ended:
        """Those reaped since the last call."""
        ended, self._ended = self._ended, {}
        return ended


class _DriverGone(Exception):
    """End of file on the control socket."""


_READY = b'{"ready": true}'
_NOTHING = Pages(0)


def supervise(control: int, build: Callable[[Header], Home]) -> Program:
    """Serve one sandbox over `control`. Returns only in a fork, with the program that it is to become.

    Going back to the top of the stack keeps our frames out of the program's sight.
    """
    opening = wire.receive(control)
    if opening is None:
        os._exit(0)
    try:
        home = build(opening[0])
    except OSError as error:
        wire.send(control, {"error": f"{error}"})
        os._exit(1)
    try:
        wire.send_text(control, _READY)
        return _serve(control, home, opening[0])
    except (_DriverGone, BrokenPipeError, ConnectionResetError):
        home.kill_all()
        home.leave()
    os._exit(0)


def settle(memory_mb: int, pids: int | None) -> None:
    """What every supervisor is, in every tier: unreadable, without new privileges, with hard limits."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (_OPEN_FILES, _OPEN_FILES))
    space = (memory_mb << 20) + _SPACE
    resource.setrlimit(resource.RLIMIT_AS, (space, space))
    if pids is not None:
        # The supervisor itself is the one more.
        resource.setrlimit(resource.RLIMIT_NPROC, (pids + 1, pids + 1))
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    linux.prctl(linux.PR_SET_DUMPABLE, 0)


def pin(cpus: float, allowed: list[int]) -> None:
    """Bind a program to as many of the `allowed` processors as `cpus` asks for.

    It stays where the scheduler put it, which costs no move. The supervisor itself is not bound: it would
    wait behind the program's processes, and its clock with it.
    """
    wanted = -int(-cpus // 1)
    if wanted < len(allowed):
        start = allowed.index(linux.current_processor())
        os.sched_setaffinity(0, [allowed[(start + at) % len(allowed)] for at in range(wanted)])


def _serve(control: int, home: Home, opening: Header) -> Program:
    while True:
        header, payload = _next(control)
        if header["op"] == "run":
            execution = _execution(control, home, opening, header, payload)
            if (program := execution.start()) is not None:
                return program
            execution.finish()
        else:
            _answer(control, home.workspace, header, payload)
        # Before the next fork, which would inherit it.
        payload.close()


def _answer(control: int, workspace: int, header: Header, payload: Pages) -> None:
    reply: Header = {}
    content = _NOTHING
    try:
        reply, content = _file_call(workspace, header, payload)
    except files.Refused as error:
        reply = {"error": str(error)}
    except OSError as error:
        reply = {"error": files.explain(header["path"], error)}
    with content.view() as data:
        wire.send(control, {**reply, "seq": header["seq"]}, data)
    content.close()


def _next(control: int) -> tuple[Header, Pages]:
    """The next request. A "cancel" that came after its program had ended is no request."""
    while (frame := wire.receive(control)) is not None:
        if frame[0]["op"] != "cancel":
            return frame
    raise _DriverGone


def _execution(control: int, home: Home, opening: Header, header: Header, payload: Pages) -> Execution:
    order = Order(
        seq=header["seq"],
        payload=payload,
        argv_size=header["argv_size"],
        timeout_s=header["timeout_s"],
        output_limit=header["output_limit"],
        env=opening["env"],
        memory_mb=opening["memory_mb"],
    )

    def cancelled() -> bool:
        # Nothing but "cancel" is sent while a program runs.
        if wire.receive(control) is None:
            raise _DriverGone
        return True

    return Execution(order, home, control, cancelled)


def _file_call(root: int, header: Header, payload: Pages) -> tuple[Header, Pages]:
    path: str = header["path"]
    match header["op"]:
        case "write":
            with payload.view() as data:
                files.write(root, path, data)
        case "read":
            return {}, files.read(root, path, header["max_bytes"])
        case "list":
            return {"names": files.listing(root, path)}, _NOTHING
        case "remove":
            files.remove(root, path)
        case unknown:
            raise AssertionError(f"no such call: {unknown}")
    return {}, _NOTHING
