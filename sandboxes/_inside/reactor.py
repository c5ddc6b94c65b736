"""Waiting for many descriptors, and for children that end."""

from __future__ import annotations

import os
import select
import signal
from typing import TYPE_CHECKING

from . import linux
from .program import Program

if TYPE_CHECKING:
    from collections.abc import Callable
    from resource import struct_rusage

    Handler = Callable[[], Program | None]
    """A Program comes back only in a fork, which is to become it."""


# Plain numbers: what an enumeration does to become one costs a fork ten pages.
_SIGCHLD, _DEFAULT = int(signal.SIGCHLD), int(signal.SIG_DFL)


class Reactor:
    """Calls a handler whenever its descriptor can be read or written."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._handlers: dict[int, Handler] = {}

    def watch(self, fd: int, events: int, handler: Handler) -> None:
        self._handlers[fd] = handler
        self._poll.register(fd, events)

    def forget(self, fd: int) -> None:
        """Also when it is not watched."""
        if self._handlers.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def turn(self, within_s: float | None) -> Program | None:
        """Wait until something can be done, and do it; at most `within_s`."""
        timeout_ms = None if within_s is None else int(max(0.0, within_s) * 1000) + 1
        for fd, _ in self._poll.poll(timeout_ms):
            handler = self._handlers.get(fd)  # an earlier one of this turn may have ended its job
            if handler is not None:
                program = handler()
                if program is not None:
                    return program
        return None


class End:
    """How a process ended."""

    def __init__(self, status: int, usage: struct_rusage) -> None:
        self.exit_code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else None
        self.signal = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        self.cpu_s = usage.ru_utime + usage.ru_stime
        self.rss_kb: int = usage.ru_maxrss


class Children:
    """How this process's children ended. Orphans too: unreaped, they would fill the process limit."""

    def __init__(self, reactor: Reactor) -> None:
        self.ended: dict[int, End] = {}
        self._awake, wakeup = os.pipe()
        for fd in (self._awake, wakeup):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        linux.set_handler(_SIGCHLD, _nothing)
        reactor.watch(self._awake, select.POLLIN, self._on_wake)

    def _on_wake(self) -> None:
        os.read(self._awake, 4096)
        while self.reap_one(os.WNOHANG):
            pass

    def reap_one(self, flags: int) -> bool:
        """False when no child is left, or none has ended yet under WNOHANG."""
        try:
            pid, status, usage = os.wait4(-1, flags)
        except ChildProcessError:
            return False
        if pid:
            self.ended[pid] = End(status, usage)
        return bool(pid)


def _nothing(_number: int, _frame: object) -> None:
    """A handler is what makes the kernel's signal reach the wakeup descriptor."""


def forget_children() -> None:
    """In a fork: children that end are the program's own."""
    signal.set_wakeup_fd(-1)
    linux.set_handler(_SIGCHLD, _DEFAULT)
