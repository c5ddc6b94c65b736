"""The pre-forked process: started once per tier by `local.py`, it clones the supervisor of each sandbox.

It runs with a scrubbed environment and one inherited socket. A message is a sandbox's number and its socket
("open 7" + descriptor) or an order to kill it ("kill 7"). End of file ends the zygote; sandboxes end by
their own sockets.
"""

import fcntl
import os
import select
import signal
import site
import socket
import sys
from collections.abc import Callable, Collection
from functools import partial
from itertools import pairwise
from typing import Protocol

from .._inside import linux
from .._inside.cell import Home
from .._inside.program import Program
from .._inside.program import run as run_program
from .._inside.warmup import load_ahead, warm_up
from . import hosted, namespaces
from .layers import MAX_LAYERS
from .supervisor import Opening, refuse, supervise

_CONTROL = 3
"""A supervisor's end of its socket."""


class Tier(Protocol):
    """What differs between tiers, for the zygote."""

    flags: int
    """The namespaces of a supervisor."""

    def build(self, opening: Opening) -> Home:
        """In a new supervisor: put up the walls."""
        ...

    def clean_up_after(self, pid: int, others: Collection[int]) -> None:
        """A supervisor has ended otherwise than it should; `others` live."""
        ...


class Zygote:
    """The loop, and the processes it started."""

    def __init__(self, control: socket.socket, tier: Tier) -> None:
        self._control = control
        self._tier = tier
        self._poll = select.poll()
        self._poll.register(control.fileno(), select.POLLIN)
        self._pidfds: dict[int, int] = {}
        self._supervisors: dict[int, tuple[int, int]] = {}

    def serve(self) -> Program | None:
        """Until the driver closes its end: None. In a fork: the program that it is to become."""
        while True:
            for fd, _ in self._poll.poll():
                if fd != self._control.fileno():
                    self._bury(fd)
                    continue
                message, fds, _, _ = socket.recv_fds(self._control, 64, 1 + MAX_LAYERS)
                if not message:
                    return None
                if (program := self._obey(message.split(), fds)) is not None:
                    return program

    def _obey(self, words: list[bytes], fds: list[int]) -> Program | None:
        number = int(words[1])
        if words[0] == b"open":
            program = self._open(number, fds)
            for fd in fds if program is None else ():
                os.close(fd)
            return program
        if number in self._pidfds:
            signal.pidfd_send_signal(self._pidfds[number], signal.SIGKILL)
        return None

    def _open(self, number: int, fds: list[int]) -> Program | None:
        try:
            pid = linux.clone(self._tier.flags)
        except OSError as error:
            refuse(fds[0], error)
            return None
        if pid == 0:
            return self._be_supervisor(*fds)
        pidfd = os.pidfd_open(pid)
        self._pidfds[number] = pidfd
        self._supervisors[pidfd] = (number, pid)
        self._poll.register(pidfd, select.POLLIN)
        return None

    def _be_supervisor(self, box: int, *layers: int) -> Program:
        # Detached, the socket object will not close a descriptor number that the program may reuse.
        self._control.detach()
        kept = [fcntl.fcntl(layer, fcntl.F_DUPFD_CLOEXEC, _CONTROL + 1) for layer in layers]
        os.dup2(box, _CONTROL)
        for below, above in pairwise((_CONTROL, *sorted(kept), 1 << 16)):
            os.closerange(below + 1, above)
        return supervise(_CONTROL, kept, self._tier.build)

    def _bury(self, pidfd: int) -> None:
        end = os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        self._poll.unregister(pidfd)
        os.close(pidfd)
        number, pid = self._supervisors.pop(pidfd)
        del self._pidfds[number]
        if end is None or (end.si_code, end.si_status) != (os.CLD_EXITED, 0):
            self._tier.clean_up_after(pid, [other for _, other in self._supervisors.values()])


class _Namespaces:
    flags = linux.NEWUSER | linux.NEWNS | linux.NEWPID | linux.NEWNET | linux.NEWIPC | linux.NEWUTS

    def __init__(self, prefixes: tuple[str, ...]) -> None:
        namespaces.enter_template(prefixes)
        if namespaces.can_switch_user():
            namespaces.become(namespaces.other_id(os.getpid()))
        self._uid, self._gid = os.geteuid(), os.getegid()
        self._allowed = sorted(os.sched_getaffinity(0))

    def build(self, opening: Opening) -> Home:
        return namespaces.NamespaceHome(opening, self._uid, self._gid, self._allowed)

    def clean_up_after(self, pid: int, others: Collection[int]) -> None:
        """With process 1 of its namespaces the kernel has taken everything."""


class _Hosted:
    flags = 0

    def __init__(self, prefixes: tuple[str, ...], *, has_walls: bool) -> None:
        self._grounds = hosted.prepare(prefixes, has_walls=has_walls)

    def build(self, opening: Opening) -> Home:
        return hosted.HostedHome(opening, self._grounds)

    def clean_up_after(self, pid: int, others: Collection[int]) -> None:
        hosted.clean_up_after(pid, others)


_TIERS: dict[str, Callable[[tuple[str, ...]], Tier]] = {
    "namespaces": _Namespaces,
    "landlock": partial(_Hosted, has_walls=True),
    "unsafe-local": partial(_Hosted, has_walls=False),
}


def _as_after_site(venv: str) -> list[str]:
    """The module search path of a normal start, which this one was not: -S leaves `site` out.

    So the .pth files of this host, which may run anything, stay out of every program.
    """
    site.setquit()
    site.setcopyright()
    site.sethelper()
    prefixes = [venv] if venv else None
    if venv:
        sys.prefix = sys.exec_prefix = venv
    packages = [path for path in site.getsitepackages(prefixes) if os.path.isdir(path)]
    return [entry for entry in sys.path if entry] + packages


def main(name: str, control_fd: int, venv: str, *preload: str) -> None:
    """Serve; in a forked program, run that and never return."""
    control = socket.socket(fileno=control_fd)
    found = [sys.base_prefix, sys.base_exec_prefix, venv]
    prefixes = tuple(dict.fromkeys(filter(None, found)))
    base_path = _as_after_site(venv)
    try:
        tier = _TIERS[name](prefixes)
        load_ahead(preload, base_path)
    except (OSError, ImportError) as error:
        control.send(f"error {error}".encode())
        return
    control.send(b"ready")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    warm_up("_palaestra")
    if (program := Zygote(control, tier).serve()) is not None:
        run_program(program, base_path)
