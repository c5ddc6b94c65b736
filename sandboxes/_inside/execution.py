"""One program, from fork to result: pumps its pipes, watches the clock and the limits, ends its whole tree.

The supervisor runs this. It is the only process that holds the driver's socket, so nothing that a program
prints or does can forge the result.
"""

import marshal
import mmap
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import NoReturn, Protocol

from . import linux, wire
from .pages import Capture, Pages
from .program import Program, parse
from .watch import Check

_DEFAULT = int(signal.SIG_DFL)
_FIRST_TICK_S = 0.01
_MEMORY_SIGNS = (b"MemoryError", b"std::bad_alloc", b"Cannot allocate memory")
_LAST_WORDS = 400
"""Bytes at the end of stderr in which a reason is looked for."""
_PIDS_SIGNS = (b"can't start new thread", b"Resource temporarily unavailable", b"Cannot fork")

_READ_AT_START = ("PYTHON", "PATH", "LANG", "LC_", "LD_", "TZ", "MALLOC_", "GLIBC_")
"""Variables that an interpreter or its libraries look at once: a fork of ours would not see them."""
_MAX_FD = 1 << 16
_FAULT_SIZE = 256
_REPLY = (
    '{"seq": %d, "status": "%s", "exit_code": %s, "stdout": %d, "omitted": [%d, %d], '
    '"wall_s": %r, "cpu_s": %r, "max_rss_mb": %r}'
)

Usage = resource.struct_rusage
Ended = dict[int, tuple[int, Usage]]
"""Wait status and usage by process number."""


class Cell(Protocol):
    """The walls of one tier, as a running program needs them."""

    def confine(self) -> None:
        """In the child, before the program: give up what is left of its rights."""
        ...

    def check(self) -> Check:
        """Compare what is used now with the limits."""
        ...

    def kill_all(self) -> Ended:
        """Kill and reap every process but the supervisor; those reaped since the last call are included."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """One `Sandbox.run` as it came over the wire."""

    seq: int
    payload: Pages
    """The command line, by marshal, and then standard input. The supervisor leaves the former unread."""
    argv_size: int
    timeout_s: float
    output_limit: int
    env: Mapping[str, str]
    memory_mb: int


class Execution:
    """`cancelled` is asked whenever the driver's socket `control` has something to say."""

    def __init__(self, order: Order, cell: Cell, control: int, cancelled: Callable[[], bool]) -> None:
        self._order = order
        self._cell = cell
        self._control = control
        self._cancelled = cancelled
        self._outputs: dict[int, Capture] = {}
        self._stdin = -1
        self._sent = order.argv_size
        self._poll = select.poll()
        self._was_full = False
        self._pid = 0
        self._started = 0.0
        self._fault = mmap.mmap(-1, _FAULT_SIZE)

    def start(self) -> Program | None:
        """Fork. In the child: what it is to become, if that needs no exec. In the supervisor: None."""
        theirs = self._open_pipes()
        self._started = time.monotonic()
        self._pid = os.fork()
        if self._pid == 0:
            return self._be_child(theirs)
        for fd in theirs:
            os.close(fd)
        return None

    def finish(self) -> None:
        """Send the reply, once the program and all that it started are gone.

        RuntimeError when it could not be confined, and so never began: that ends the supervisor.
        """
        broken = self._supervise(self._started + self._order.timeout_s)
        wall_s = time.monotonic() - self._started
        if broken is None and not self._was_full:
            # What filled the process table is often still there when the main program gives up.
            self._was_full = self._cell.check().is_full
        status, usage = self._cell.kill_all()[self._pid]
        if self._fault[0]:
            raise RuntimeError(f"could not confine a program: {self._fault[:].rstrip(bytes(1))!r}")
        self._close_stdin()
        for fd, capture in self._outputs.items():
            # What a full pipe held when the last writer died.
            while capture.read_from(fd):
                pass
            os.close(fd)
        self._reply(broken, status, usage, wall_s)

    def _open_pipes(self) -> list[int]:
        """Make the pipes; the child's ends of stdin (unless /dev/null stays there), stdout and stderr."""
        theirs: list[int] = []
        if self._sent < self._order.payload.size:
            reader, self._stdin = os.pipe()
            os.set_blocking(self._stdin, False)
            theirs.append(reader)
            self._feed()
        for _ in range(2):
            reader, writer = os.pipe()
            os.set_blocking(reader, False)
            self._outputs[reader] = Capture(self._order.output_limit)
            self._poll.register(reader, select.POLLIN)
            theirs.append(writer)
        return theirs

    def _supervise(self, deadline: float) -> str | None:
        """Serve the program until its main process ends (None) or a limit does it (the status)."""
        try:
            pidfd = os.pidfd_open(self._pid)
        except ProcessLookupError:
            # It has ended and been reaped already.
            return None
        self._poll.register(pidfd, select.POLLIN)
        self._poll.register(self._control, select.POLLIN)
        try:
            return self._watch(pidfd, deadline)
        finally:
            os.close(pidfd)

    def _watch(self, pidfd: int, deadline: float) -> str | None:
        tick = _FIRST_TICK_S
        next_check = time.monotonic() + tick
        while True:
            now = time.monotonic()
            events = self._poll.poll(int(max(0.0, min(deadline, next_check) - now) * 1000) + 1)
            ended = False
            for fd, _ in events:
                if fd == pidfd:
                    ended = True
                elif fd == self._control:
                    if self._cancelled():
                        return "killed"
                elif fd == self._stdin:
                    self._feed()
                else:
                    self._drain(fd)
            if ended:
                return None
            # After the look: on a busy machine we may be late, and the program may have ended in time.
            if now >= deadline:
                return "timeout"
            if time.monotonic() >= next_check:
                check = self._cell.check()
                self._was_full = self._was_full or check.is_full
                if check.broken is not None:
                    return check.broken
                tick = min(2 * tick, check.within_s)
                next_check = time.monotonic() + tick

    def _drain(self, fd: int) -> None:
        if self._outputs[fd].read_from(fd) == 0:
            self._poll.unregister(fd)

    def _feed(self) -> None:
        """Write as much of stdin as fits; close it after the last byte, or when nobody reads."""
        payload = self._order.payload
        with payload.view() as whole, whole[self._sent :] as unsent:
            try:
                self._sent += os.write(self._stdin, unsent)
            except BlockingIOError:
                pass
            except BrokenPipeError:
                self._sent = payload.size
        self._poll.register(self._stdin, select.POLLOUT)
        if self._sent == payload.size:
            self._close_stdin()

    def _close_stdin(self) -> None:
        if self._stdin >= 0:
            self._poll.unregister(self._stdin)
            os.close(self._stdin)
            self._stdin = -1

    def _be_child(self, fds: list[int]) -> Program:
        """Leave the supervisor: own session, own pipes, nothing else of the supervisor's."""
        try:
            argv = self._take_argv()
            program = _as_python(argv, self._order.env)
            linux.set_handler(signal.SIGCHLD, _DEFAULT)
            os.setsid()
            for target, fd in zip((2, 1, 0), reversed(fds), strict=False):
                os.dup2(fd, target)
            linux.prctl(linux.PR_SET_DUMPABLE, 1)
            self._cell.confine()
            os.closerange(3, _MAX_FD)
            # Gone before the program starts, which could write to it otherwise.
            self._fault.close()
        except BaseException as error:
            # Half confined, nothing may run: the supervisor says why, and that it was our fault.
            words = repr(error).encode()[:_FAULT_SIZE]
            self._fault[: len(words)] = words
            os._exit(1)
        if self._order.env:
            os.environ.update(self._order.env)
        return program or _execute(argv)

    def _take_argv(self) -> tuple[str, ...]:
        """The command line, of which this child is the first to make objects."""
        payload = self._order.payload
        with payload.view() as whole, whole[: self._order.argv_size] as text:
            argv: tuple[str, ...] = marshal.loads(text)
        payload.close()
        return argv

    def _reply(self, broken: str | None, status: int, usage: Usage, wall_s: float) -> None:
        out, err = self._outputs.values()
        code = os.waitstatus_to_exitcode(status)
        with out.kept() as stdout, err.kept() as stderr:
            text = _REPLY % (
                self._order.seq,
                self._judge(broken, code, usage, err),
                code if broken is None and code >= 0 else "null",
                len(stdout),
                out.omitted,
                err.omitted,
                wall_s,
                usage.ru_utime + usage.ru_stime,
                usage.ru_maxrss / 1024,
            )
            wire.send_text(self._control, text.encode(), stdout, stderr)
        out.close()
        err.close()

    def _judge(self, broken: str | None, code: int, usage: Usage, stderr: Capture) -> str:
        """The status. Python, C++ and shells report a refused allocation or process in words: the end of
        stderr tells that from other failures."""
        no_pids = stderr.ends_with_any(_PIDS_SIGNS, _LAST_WORDS)
        if broken is not None:
            return "pids" if broken == "timeout" and self._was_full and no_pids else broken
        # Between two looks a program can take too much and end: its peak tells.
        if usage.ru_maxrss > self._order.memory_mb << 10:
            return "oom"
        if code == 0:
            return "ok"
        if stderr.ends_with_any(_MEMORY_SIGNS, _LAST_WORDS):
            return "oom"
        if self._was_full or no_pids:
            return "pids"
        return "nonzero" if code > 0 else "killed"


def _as_python(argv: tuple[str, ...], env: Mapping[str, str]) -> Program | None:
    """The program, when it is for the very interpreter that runs this and plain enough to fork into."""
    if argv[0] not in python_names() or any(name.startswith(_READ_AT_START) for name in env):
        return None
    return parse(argv)


@cache
def python_names() -> frozenset[str]:
    """The commands that mean this interpreter. The zygote asks first, in a root that nobody can change."""
    path = os.path.realpath(sys.executable)
    names = {sys.executable, path}
    for name in (f"python{sys.version_info.major}.{sys.version_info.minor}", "python3", "python"):
        for directory in os.get_exec_path():
            found = os.path.join(directory, name)
            if os.path.exists(found):
                names |= {name, found} if os.path.realpath(found) == path else set()
                break
    return frozenset(names)


def _execute(argv: tuple[str, ...]) -> NoReturn:
    """exec, with a shell's exit codes for a program that cannot be started."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(argv[0], argv)
    except OSError as error:
        os.write(2, f"sandbox: {argv[0]}: {error.strerror}\n".encode(errors="backslashreplace"))
        os._exit(127 if isinstance(error, FileNotFoundError) else 126)
