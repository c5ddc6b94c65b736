"""One run of a program inside a Docker sandbox's container. Part of the guest.

Standard library of Python 3.8 only, and only what python3-minimal has.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from importlib.util import find_spec

from .frames import Link
from .guest_walls import oom_kills, pid_refusals
from .output import HeadTail

PIPE_READ = 1 << 16
CAN_WAIT4 = find_spec("resource") is not None
"""os.wait4 imports `resource`, which python3-minimal lacks."""


class Box:
    """What every program here gets: a directory, an identity, an environment, some processors."""

    def __init__(self, root: int, uid: int, gid: int, cpus: int, env: Mapping[str, str]) -> None:
        self.root, self.uid, self.gid, self.env = root, uid, gid, env
        self._all_cpus = sorted(os.sched_getaffinity(0))
        self._num_cpus = min(cpus, len(self._all_cpus))

    @contextmanager
    def as_program(self) -> Generator[None, None, None]:
        """Files are touched with the identity of the programs; root comes back after."""
        before = os.geteuid(), os.getegid()
        os.setegid(self.gid)
        os.seteuid(self.uid)
        try:
            yield
        finally:
            os.seteuid(before[0])
            os.setegid(before[1])

    def become(self, argv: list[bytes], pipes: list[tuple[int, int]]) -> None:
        """In the forked child: give up everything, then turn into the program."""
        os.setsid()
        for fd, end in enumerate((pipes[0][0], pipes[1][1], pipes[2][1])):
            os.dup2(end, fd)
        # As many processors as it may use in all: runtimes size their thread pools by this.
        first = int.from_bytes(os.urandom(2), "big") % len(self._all_cpus)
        os.sched_setaffinity(0, (self._all_cpus * 2)[first : first + self._num_cpus])
        # When memory ends the kernel shall take this process before the guest. Engines that remap user ids
        # forbid it: there the largest process goes first, which the guest is not.
        with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
        if os.getuid() != self.uid:
            os.setgroups([])
            os.setgid(self.gid)
            os.setuid(self.uid)
        os.umask(0o022)
        os.fchdir(self.root)
        for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        try:
            os.execvpe(argv[0], argv, self.env)
        except OSError as error:
            os.write(2, argv[0] + b": " + str(error.strerror).encode() + b"\n")
            os._exit(127 if isinstance(error, FileNotFoundError) else 126)  # as a shell says it


def reap(flags: int) -> tuple[int, int, float, float]:
    """One dead child: pid (0: none yet), wait status, CPU seconds, peak resident MiB (0.0: not known)."""
    if CAN_WAIT4:
        pid, status, usage = os.wait4(-1, flags)
        return pid, status, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024
    before = os.times()
    pid, status = os.waitpid(-1, flags)
    after = os.times()
    cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
    return pid, status, cpu_s, 0.0


class Program:
    """One run: the process, its three pipes, its clock, and what it has written."""

    def __init__(self, link: Link, box: Box, frame: list[bytes], alarm: int) -> None:
        self._link = link
        self._alarm = alarm  # readable whenever a child has died
        self._deadline = time.monotonic() + float(frame[1])
        self._stdout, self._stderr = HeadTail(int(frame[2])), HeadTail(int(frame[2]))
        self._stdin, self._more_stdin = frame[3], frame[4] == b"1"
        self._asked = False
        self._ended: tuple[int, int, float, float] | None = None
        self._counts = oom_kills() or 0, pid_refusals() or 0
        with box.as_program():  # theirs, so that a program may open /dev/stdout and /dev/stderr by name
            pipes = [os.pipe(), os.pipe(), os.pipe()]
        self._start = time.monotonic()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                box.become(frame[5:], pipes)
            finally:
                os._exit(126)  # never back into the guest's own loop, whatever went wrong
        self._in, self._outs = pipes[0][1], {pipes[1][0]: self._stdout, pipes[2][0]: self._stderr}
        for end in (pipes[0][0], pipes[1][1], pipes[2][1]):
            os.close(end)
        for end in (self._in, *self._outs):
            os.set_blocking(end, False)
        self._poll = select.poll()
        for fd in (0, alarm, *self._outs):
            self._poll.register(fd, select.POLLIN)
        self._watch_stdin()

    def supervise(self) -> str:
        """Serve the program until it ends: "ended", "timeout" or "cancel"."""
        while self._ended is None:
            left_s = self._deadline - time.monotonic()
            if left_s <= 0:
                self._reap_dead()
                return "timeout" if self._ended is None else "ended"
            for fd, _ in self._poll.poll(int(min(left_s, 3600) * 1000) + 1):
                if fd == 0:
                    self._link.fill()
                    if self._control():
                        return "cancel"
                elif fd == self._alarm:
                    os.read(self._alarm, PIPE_READ)
                    self._reap_dead()
                elif fd == self._in:
                    self._feed()
                elif fd in self._outs:
                    self._drain(fd)
        return "ended"

    def report(self, how: str) -> list[bytes]:
        """Kill what is left, then tell everything; `docker.py` reads the fields in this order."""
        wall_s = time.monotonic() - self._start
        self._kill_all()
        for fd in list(self._outs):
            while self._drain(fd):
                pass
        for fd in self._outs:
            os.close(fd)  # a descriptor of it is still queued somewhere, but nobody is left to write
        if self._in >= 0:
            os.close(self._in)
        assert self._ended is not None
        _, status, cpu_s, rss_mb = self._ended
        code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 0
        ended_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        counts = (oom_kills() or 0) - self._counts[0], (pid_refusals() or 0) - self._counts[1]
        omitted = self._stdout.omitted, self._stderr.omitted
        numbers = (code, ended_by, *counts, wall_s, cpu_s, rss_mb, *omitted)
        texts = [how, *map(str, numbers)]
        return [b"exit", *(text.encode() for text in texts), self._stdout.value(), self._stderr.value()]

    def _control(self) -> bool:
        """Take what the driver has sent; True when it cancels the run."""
        while (frame := self._link.next()) is not None:
            if frame[0] == b"cancel":
                return True
            if frame[0] == b"stdin":
                self._stdin, self._more_stdin, self._asked = frame[1], bool(frame[1]), False
                if self._in >= 0:
                    self._watch_stdin()
        return False

    def _watch_stdin(self) -> None:
        """Write when there is something to write, ask when there is more to come, else close."""
        if self._stdin:
            self._poll.register(self._in, select.POLLOUT)
        elif self._more_stdin:
            with suppress(KeyError):
                self._poll.unregister(self._in)
            if not self._asked:
                self._asked = True
                self._link.send(b"stdin")
        else:
            self._close_stdin()

    def _close_stdin(self) -> None:
        with suppress(KeyError):  # it was never watched when there was nothing to write
            self._poll.unregister(self._in)
        os.close(self._in)
        self._in = -1

    def _feed(self) -> None:
        try:
            self._stdin = self._stdin[os.write(self._in, self._stdin) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self._close_stdin()  # the program does not read it
            return
        if not self._stdin:
            self._watch_stdin()

    def _drain(self, fd: int) -> bool:
        """Take what a pipe holds. False when it is empty or has ended; an ended one is closed."""
        try:
            data = os.read(fd, PIPE_READ)
        except BlockingIOError:
            return False
        self._outs[fd].feed(data)
        if not data:
            self._poll.unregister(fd)
            os.close(fd)
            del self._outs[fd]
        return bool(data)

    def _reap_dead(self) -> None:
        """Every dead child, orphans of the program too; the program's own end is kept."""
        with suppress(ChildProcessError):
            while (dead := reap(os.WNOHANG))[0]:
                if dead[0] == self._pid:
                    self._ended = dead

    def _kill_all(self) -> None:
        """Every process but this one; for the kernel it is one step, so no fork slips through."""
        with suppress(ProcessLookupError):
            if os.getpid() == 1:
                os.kill(-1, signal.SIGKILL)
            else:  # outside a container -1 would be every process of the machine
                os.killpg(self._pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            while True:
                dead = reap(0)
                if dead[0] == self._pid:
                    self._ended = dead
