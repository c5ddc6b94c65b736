"""The pre-forked process: started once per tier by `local.py`, it clones the supervisor of each sandbox.

It runs with a scrubbed environment and one inherited socket. A message is a sandbox's number and its socket
("open 7" + descriptor) or an order to kill it ("kill 7"). End of file ends the zygote; sandboxes end by
their own sockets.
"""

import gc
import os
import select
import signal
import site
import socket
import sys
from collections.abc import Callable

# Programs find these loaded already: an import they need not pay for. `random` and `threading` are left
# out, because both do work in every fork.
import bisect, collections, copy, dataclasses, datetime, functools, heapq  # noqa: E401, F401, I001
import itertools, json, math, operator, re, string, textwrap, time, typing  # noqa: E401, F401

from . import _linux, _namespaces, _program
from ._execution import python_names
from ._supervisor import Home, supervise
from ._wire import Header

_NAMESPACES = (
    _linux.NEWUSER | _linux.NEWNS | _linux.NEWPID | _linux.NEWNET | _linux.NEWIPC | _linux.NEWUTS
)
_ONE_FD = socket.CMSG_SPACE(4)


class Zygote:
    """The loop, and the processes it started."""

    def __init__(self, control: socket.socket, flags: int, build: Callable[[Header, int], Home]) -> None:
        self._control = control
        self._flags = flags
        self._build = build
        self._poll = select.poll()
        self._poll.register(control.fileno(), select.POLLIN)
        self._pidfds: dict[int, int] = {}
        self._numbers: dict[int, int] = {}
        self._turn = 0

    def serve(self) -> None:
        """Until the driver closes its end."""
        while True:
            for fd, _ in self._poll.poll():
                if fd == self._control.fileno():
                    message, ancillary, _, _ = self._control.recvmsg(64, _ONE_FD)
                    if not message:
                        return
                    self._obey(message.split(), ancillary)
                else:
                    self._bury(fd)

    def _obey(self, words: list[bytes], ancillary: list[tuple[int, int, bytes]]) -> None:
        number = int(words[1])
        if words[0] == b"open":
            box = int.from_bytes(ancillary[0][2], sys.byteorder)
            self._open(number, box)
            os.close(box)
        elif number in self._pidfds:
            signal.pidfd_send_signal(self._pidfds[number], signal.SIGKILL)

    def _open(self, number: int, box: int) -> None:
        self._turn += 1
        pid = _linux.clone(self._flags)
        if pid == 0:
            self._be_supervisor(box)
        pidfd = os.pidfd_open(pid)
        self._pidfds[number] = pidfd
        self._numbers[pidfd] = number
        self._poll.register(pidfd, select.POLLIN)

    def _be_supervisor(self, box: int) -> None:
        os.dup2(box, 3)
        if self._control.fileno() != 3:
            self._control.close()
        self._control.detach()
        os.closerange(4, 1 << 16)
        supervise(3, lambda opening: self._build(opening, self._turn))

    def _bury(self, pidfd: int) -> None:
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        self._poll.unregister(pidfd)
        os.close(pidfd)
        del self._pidfds[self._numbers.pop(pidfd)]


def _prepare_namespaces() -> tuple[int, Callable[[Header, int], Home]]:
    _namespaces.enter_template(_namespaces.interpreter_prefixes())
    if os.geteuid() == 0 and os.getuid() == 0:
        _namespaces.become(_namespaces.other_id(os.getpid()))
    uid, gid, allowed = os.geteuid(), os.getegid(), sorted(os.sched_getaffinity(0))
    return _NAMESPACES, lambda opening, turn: _namespaces.NamespaceHome(opening, uid, gid, allowed, turn)


def _as_after_site() -> list[str]:
    """The module search path of a normal start, which this one was not: -S leaves `site` out.

    So the .pth files of this host, which may run anything, stay out of every program.
    """
    site.setquit()
    site.setcopyright()
    site.sethelper()
    packages = [path for path in site.getsitepackages() if os.path.isdir(path)]
    return [entry for entry in sys.path if entry] + packages


def _warm_up() -> None:
    """Do once what each fork would otherwise do again."""
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    # A signal to process 1 that has no handler is dropped by the kernel; Python has one for SIGINT.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    python_names()
    exec(compile("pass", "<string>", "exec"), {})
    # Forks inherit the blank line: their /proc entries name no file of the host.
    _linux.hide_command_line()
    for name in [name for name in sys.modules if name.startswith("_palaestra")]:
        del sys.modules[name]
    gc.collect()


def main(tier: str, control_fd: int) -> None:
    """Serve; in a forked program, run that and never return."""
    control = socket.socket(fileno=control_fd)
    base_path = _as_after_site()
    try:
        flags, build = _prepare_namespaces()
    except OSError as error:
        control.send(f"error {error}".encode())
        return
    control.send(b"ready")
    _warm_up()
    gc.freeze()
    gc.disable()
    try:
        Zygote(control, flags, build).serve()
    except _program.Become as become:
        program = become.program
    else:
        os._exit(0)
    _program.run(program, base_path)
