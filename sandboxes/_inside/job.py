"""One program, from fork to result: its pipes, what it wrote, how it ended."""

from __future__ import annotations

import fcntl
import marshal
import mmap
import os
import select
import socket
import time
from contextlib import suppress
from typing import NamedTuple

from . import linux
from .brand import brand
from .cell import Home
from .command import Command, become
from .feeder import Feeder
from .pages import CHUNK, Capture, Pages, free_all_but, waiting
from .program import Program
from .reactor import End, Reactor, forget_children
from .verdict import judge
from .wire import Outbox, Text, weight

WINDOW = 1 << 18
"""Bytes of a stream that may be on their way to whoever asked for it."""

ANSWERS = 3
"""The descriptor of a session's answers, which no command in it has."""

_MAX_FD = 1 << 16
_ABOVE = 64
_FAULT_SIZE = 256


class Order(NamedTuple):
    """One program as it came over the wire."""

    channel: int
    kind: str
    """"run" (outputs kept until it has ended), "job" (outputs streamed) or "session" (a job that answers on
    descriptor 3)."""
    payload: Pages
    """Command line, environment and directory, by marshal, and then standard input. The supervisor leaves
    all of that unread."""
    command_size: int
    more_stdin: bool
    timeout_s: float | None
    output_limit: int
    memory_mb: int


class Job:
    """A program under way. The loop that owns it watches its clock and ends it."""

    def __init__(self, order: Order, home: Home, reactor: Reactor, outbox: Outbox) -> None:
        self.channel = order.channel
        self.is_run = order.kind == "run"
        self.deadline = float("inf")
        self.was_full = False
        self.was_alone = True
        """No other program ran meanwhile."""
        self.pid = 0
        self._order = order
        self._home = home
        self._reactor = reactor
        self._outbox = outbox
        self._kept: dict[int, Capture] = {}
        self._streams: dict[int, int] = {}
        self._unread = 0
        self._started = 0.0
        self._events = home.events()
        self._fault = mmap.mmap(-1, _FAULT_SIZE)
        self.stdin: Feeder | None = None

    def start(self) -> Program | None:
        """Fork. In the child: what it is to become, if that needs no exec. In the supervisor: None.

        `pid` stays 0 when there is no room for one more; the driver is told.
        """
        theirs: dict[int, int] = {}
        payload = self._order.payload
        payload.show_to_forks(True)
        self._home.renew()
        try:
            with self._home.as_program():  # theirs, so that a program may open /dev/stdout by name
                self._open_pipes(theirs)
            self._started = time.monotonic()
            pid = os.fork()
        except OSError as error:
            self._refuse(error, theirs)
            return None
        if pid == 0:
            return self._be_child(theirs)
        self.pid = pid
        payload.show_to_forks(False)
        if self._order.timeout_s is not None:
            self.deadline = self._started + self._order.timeout_s
        for fd in theirs.values():
            os.close(fd)
        if self.stdin is None:
            payload.close()
        else:
            start, is_last = self._order.command_size, not self._order.more_stdin
            self.stdin.put(payload, payload.close, start=start, is_last=is_last)
        return None

    def _refuse(self, error: OSError, theirs: dict[int, int]) -> None:
        """As many processes as allowed, or as many descriptors: what runs here already has taken them."""
        for fd in theirs.values():
            os.close(fd)
        self._close()
        self._order.payload.close()
        for capture in self._kept.values():
            capture.close()
        words = f"sandbox: no room for another program: {error.strerror}\n"
        self._outbox.put(self.channel, b"exit pids - 0 0 0 0 0", Text(words.encode()))

    def _close(self) -> None:
        """Our ends of its pipes."""
        if self.stdin is not None:
            self.stdin.close()
        for reader in (*self._kept, *self._streams):
            self._reactor.forget(reader)
            os.close(reader)

    def _open_pipes(self, theirs: dict[int, int]) -> None:
        """Make the pipes. `theirs`: the child's ends, by the number that they will have there."""
        if self._order.more_stdin or self._order.command_size < self._order.payload.size:
            theirs[0], writer = _sockets() if self._order.kind == "session" else os.pipe()
            self.stdin = Feeder(self._reactor, writer)
        for number in (1, 2):
            reader, theirs[number] = os.pipe()
            self._open_output(number, reader)
        if self._order.kind == "session":
            reader, theirs[ANSWERS] = _sockets()
            self._open_output(ANSWERS, reader)

    def _open_output(self, number: int, reader: int) -> None:
        os.set_blocking(reader, False)
        if self.is_run:
            self._kept[reader] = Capture(self._order.output_limit)
        else:
            self._streams[reader] = number
        self._watch(reader)

    def _watch(self, reader: int) -> None:
        self._reactor.watch(reader, select.POLLIN, lambda: self._on_output(reader))

    def _on_output(self, reader: int) -> None:
        if reader in self._kept:
            got = self._kept[reader].read_from(reader)
        elif self._streams[reader] == ANSWERS:
            # What it wrote before it answered comes first.
            for other, number in self._streams.items():
                if number != ANSWERS:
                    self._pass_on_all(other)
            got = self._pass_on(reader)
        else:
            got = self._pass_on(reader)
        if self._unread >= WINDOW:
            for fd in self._streams:
                self._reactor.forget(fd)
        if got == 0:
            self._reactor.forget(reader)

    def _pass_on(self, reader: int) -> int | None:
        """Send on what a stream holds: the number of bytes, 0 at its end, None when there is nothing yet."""
        chunk = Pages(CHUNK)
        got = chunk.read_from(reader)
        chunk.cut()
        if got:
            self._unread += weight(got)
            self._outbox.put(self.channel, b"data %d" % self._streams[reader], chunk)
        return got

    def _pass_on_all(self, reader: int) -> None:
        """What a stream holds now. A writer that never stops shall not keep us."""
        left = waiting(reader)
        while left > 0 and (got := self._pass_on(reader)):
            left -= got

    def signal(self, number: int) -> None:
        """To its process group; to itself while it is too new to have one."""
        with suppress(ProcessLookupError):
            try:
                os.killpg(self.pid, number)
            except ProcessLookupError:
                os.kill(self.pid, number)

    def acknowledge(self, size: int) -> None:
        """The driver has read chunks of that weight."""
        self._unread -= size
        if self._unread < WINDOW:
            for reader in self._streams:
                self._watch(reader)

    def report(self, broken: str | None, end: End) -> None:
        """Send the result. Nothing of the program is alive any more.

        RuntimeError when it could not be confined, and so never began: that ends the supervisor.
        """
        wall_s = time.monotonic() - self._started
        if self._fault[0]:
            raise RuntimeError(f"could not confine a program: {self._fault[:].rstrip(bytes(1))!r}")
        self._drain()
        self._close()
        captures = list(self._kept.values())
        status = judge(
            broken,
            end,
            captures[1] if captures else None,
            memory_mb=self._order.memory_mb,
            was_full=self.was_full,
            was_alone=self.was_alone,
            since=self._home.events().since(self._events),
        )
        code = "-" if broken is not None or end.exit_code is None else end.exit_code
        if captures:
            self._outbox.put(self.channel, b"out", captures[0])
            with captures[1].view():
                omitted = captures[0].omitted, captures[1].omitted
        else:
            omitted = 0, 0
        head = f"exit {status} {code} {wall_s} {end.cpu_s} {end.rss_kb / 1024} {omitted[0]} {omitted[1]}"
        self._outbox.put(self.channel, head.encode(), captures[1] if captures else None)

    def _drain(self) -> None:
        """What its pipes held when its last process died. Another job may have got at one, and write on."""
        for reader, capture in self._kept.items():
            left = waiting(reader)
            while left > 0 and (got := capture.read_from(reader)):
                left -= got
        for reader in self._streams:
            self._pass_on_all(reader)

    def _be_child(self, theirs: dict[int, int]) -> Program:
        """Leave the supervisor: own session, own pipes, nothing else of the supervisor's."""
        try:
            command = self._take_command()
            forget_children()
            os.setsid()
            self._place(theirs)
            brand(self.channel)
            self._home.confine()
            os.closerange(max(theirs) + 1, _MAX_FD)
            # Gone before the program starts, which could write to it otherwise.
            self._fault.close()
            # Not before: other programs of this user may look into who has no more rights than they, and
            # follow what it holds open. A process that changed its user needs it for its own /proc files.
            linux.prctl(linux.PR_SET_DUMPABLE, 1)
        except BaseException as error:
            # Half confined, nothing may run: the supervisor says why, and that it was our fault.
            words = repr(error).encode()[:_FAULT_SIZE]
            self._fault[: len(words)] = words
            os._exit(1)
        return become(command)

    def _take_command(self) -> Command:
        """What to run, of which this child is the first to make objects."""
        payload = self._order.payload
        free_all_but(payload)
        with payload.view() as whole, whole[: self._order.command_size] as text:
            command = Command(*marshal.loads(text))
        payload.close()
        return command

    def _place(self, theirs: dict[int, int]) -> None:
        """Give each pipe its number."""
        if ANSWERS in theirs:
            # One of them, or of ours, may stand on that number: out of the way first.
            theirs = {number: fcntl.fcntl(fd, fcntl.F_DUPFD, _ABOVE) for number, fd in theirs.items()}
        for number, fd in theirs.items():
            os.dup2(fd, number)


def _sockets() -> tuple[int, int]:
    """Between us and a session's interpreter. What that runs could open its pipes through /proc."""
    ours, theirs = socket.socketpair()
    return ours.detach(), theirs.detach()
