"""PID 1 of a Docker sandbox: the loop of `_inside/`, behind the walls that the engine put up.

`containers.py` hands the text of this file and of `_inside/` to `python3 -c` in any image that has Python 3.8
or newer, with ctypes.

It is root with the capabilities SETUID, SETGID and KILL; programs get another uid and none of them, so that a
program can neither signal, trace nor impersonate it. When its stdin ends the driver is gone; this process
exits, and the kernel ends everything in the container.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Any

from .._inside import linux
from .._inside.cell import FIRST_LOOK_S, Check, Events, descendants
from .._inside.files import Refused
from .._inside.loop import Loop
from .._inside.program import run as run_program
from .._inside.warmup import load_ahead, warm_up
from .._inside.wire import DriverGone, Inbox, Outbox, Text
from .guest_walls import missing_walls, oom_kills, pid_refusals

_ABOVE = 64
_NEVER_S = 3600.0


class ContainerHome:
    """One container, seen from its PID 1. The engine's cgroup holds the limits."""

    first_look_s = FIRST_LOOK_S

    def __init__(self, opening: dict[str, Any]) -> None:
        self._uid: int = opening["uid"]
        self._gid: int = opening["gid"]
        directory: str = opening["workspace"]
        os.makedirs(directory, exist_ok=True)
        os.chmod(directory, 0o777)  # root keeps it, so that no program can move it away or close it
        if os.getuid() != self._uid:
            os.setgroups([])
        os.environ.update(HOME=directory, TMPDIR="/tmp")
        os.chdir(directory)
        os.umask(0o022)
        self.workspace = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._all_cpus = sorted(os.sched_getaffinity(0))
        self._num_cpus = min(opening["cpus"], len(self._all_cpus))

    def renew(self) -> None:
        pass

    def confine(self) -> None:
        # As many processors as it may use in all: runtimes size their thread pools by this.
        first = int.from_bytes(os.urandom(2), "big") % len(self._all_cpus)
        os.sched_setaffinity(0, (self._all_cpus * 2)[first : first + self._num_cpus])
        # When memory ends the kernel shall take this process before the guest. Engines that remap user ids
        # forbid it: there the largest process goes first, which the guest is not.
        with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
        if os.getuid() != self._uid:
            os.setgid(self._gid)
            os.setuid(self._uid)
        for number in (signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)

    def check(self) -> Check:
        """The kernel watches; it is asked for its counts at a program's end."""
        return Check(broken=None, is_full=False, within_s=_NEVER_S)

    def use(self, pids: list[int], broken: str) -> int:
        """Nothing is found broken here."""
        return 0

    def events(self) -> Events:
        return Events(ooms=oom_kills() or 0, refused_forks=pid_refusals() or 0)

    def is_as_new(self) -> bool:
        return False

    def freeze(self) -> list[int]:
        raise Refused("a container has no file system of its own to share")

    def kill_all(self) -> None:
        """For the kernel it is one step, so no fork slips through."""
        if os.getpid() == 1:
            with suppress(ProcessLookupError):
                os.kill(-1, signal.SIGKILL)
            return
        for pid in descendants(os.getpid()):  # outside a container -1 would be every process of the machine
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    @contextmanager
    def as_program(self) -> Generator[None, None, None]:
        before = os.geteuid(), os.getegid()
        os.setegid(self._gid)
        os.seteuid(self._uid)
        try:
            yield
        finally:
            os.seteuid(before[0])
            os.setegid(before[1])

    def leave(self) -> None:
        """The kernel ends everything in the container with PID 1."""


def _leave(number: int, _frame: object) -> None:
    # A child that is about to become its program is ended by the same signal.
    os._exit(0 if os.getpid() == 1 else 128 + number)


def _take_connection() -> tuple[Inbox, Outbox]:
    """stdin and stdout, moved out of the way of the programs' own."""
    fds = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _ABOVE) for fd in (0, 1)]
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1):
        os.dup2(null, fd)
    os.close(null)
    return Inbox(fds[0]), Outbox(fds[1])


def main() -> None:
    """Serve until the driver's end closes. In a forked program, run that and never return."""
    signal.signal(signal.SIGTERM, _leave)  # `docker stop` need not wait for its deadline
    linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
    base_path = [entry for entry in sys.path if entry]
    inbox, outbox = _take_connection()
    try:
        loop = _set_up(inbox, outbox, base_path)
    except DriverGone:
        os._exit(0)
    warm_up("box")
    run_program(loop.serve(), base_path)


def _set_up(inbox: Inbox, outbox: Outbox, base_path: list[str]) -> Loop:
    """Answer the driver's opening with what this container lacks."""
    request = inbox.take()
    assert request is not None, "the connection blocks until the whole request is here"
    opening = request.head
    home = ContainerHome(opening)
    try:
        load_ahead(opening["preload"], base_path)
    except ImportError as error:
        outbox.put(request.channel, b"unavailable", Text(str(error).encode(errors="backslashreplace")))
        os._exit(1)
    lacks = missing_walls(opening["memory_mb"] << 20, opening["pids"] + 1)
    outbox.put(request.channel, b"ok", Text("\0".join(lacks).encode()))
    os.set_blocking(inbox.fd, False)
    os.set_blocking(outbox.fd, False)
    return Loop(inbox, outbox, home, memory_mb=opening["memory_mb"], has_network=opening["has_network"])
