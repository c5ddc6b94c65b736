"""What the first process of an embedded sandbox does before its loop: hear the limits, put up the walls."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from contextlib import suppress
from typing import TypedDict, cast

from .._inside import linux
from .._inside.cell import Home
from .._inside.loop import Loop
from .._inside.program import Program
from .._inside.wire import DriverGone, Inbox, Outbox, Text

_OPEN_FILES = 256
"""Descriptors a program may hold. Socket and pipe buffers are memory that nothing else here counts."""
_SPACE = 4 << 30
"""Bytes of address space over memory_mb: threads and allocators reserve much more than they touch."""


class Opening(TypedDict):
    """The limits of `SandboxSpec`, as the driver's first request carries them."""

    memory_mb: int
    pids: int
    disk_mb: int
    cpus: float
    has_network: bool
    """Whether programs can reach the driver's proxy."""
    layers: list[int]
    """Descriptors of the files that it begins with, by `layers.Layers.freeze` of another sandbox."""


def supervise(control: int, layers: list[int], build: Callable[[Opening], Home]) -> Program:
    """Serve one sandbox over `control`. Returns only in a fork, with the program that it is to become."""
    inbox, outbox = Inbox(control), Outbox(control)
    try:
        request = inbox.take()
    except DriverGone:
        os._exit(0)
    assert request is not None, "the connection blocks until the whole request is here"
    opening = cast(Opening, {**request.head, "layers": layers})
    try:
        home = build(opening)
    except OSError as error:
        refuse(control, error)
        os._exit(1)
    os.set_blocking(control, False)
    loop = Loop(inbox, outbox, home, memory_mb=opening["memory_mb"], has_network=opening["has_network"])
    try:
        outbox.put(request.channel, b"ok")
    except DriverGone:
        home.leave()
        os._exit(0)
    return loop.serve()


def refuse(control: int, error: OSError) -> None:
    """Tell the driver why there is no sandbox, if it is still there."""
    with suppress(DriverGone):
        Outbox(control).put(0, b"unavailable", Text(str(error).encode(errors="backslashreplace")))


def settle(memory_mb: int, pids: int) -> None:
    """What every supervisor is, in every tier: unreadable, without new privileges, with hard limits.

    `pids`: of its user, beside the supervisor itself.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # It holds some for each program that runs. The programs' own limit is set by `limit_files`.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    space = (memory_mb << 20) + _SPACE
    resource.setrlimit(resource.RLIMIT_AS, (space, space))
    _, most = resource.getrlimit(resource.RLIMIT_NPROC)
    wanted = pids + 1 if most == resource.RLIM_INFINITY else min(pids + 1, most)
    resource.setrlimit(resource.RLIMIT_NPROC, (wanted, wanted))
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    linux.prctl(linux.PR_SET_DUMPABLE, 0)


def limit_files() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (_OPEN_FILES, _OPEN_FILES))


class Pin:
    """As many of the `allowed` processors as `cpus` asks for, chosen ahead of every fork."""

    def __init__(self, cpus: float, allowed: list[int]) -> None:
        wanted = -int(-cpus // 1)
        self._neighbours: dict[int, list[int]] = {}
        for start, processor in enumerate(allowed if wanted < len(allowed) else ()):
            self._neighbours[processor] = [allowed[(start + at) % len(allowed)] for at in range(wanted)]

    def bind(self) -> None:
        """This process and its children. It stays where the scheduler put it, which costs no move.

        The supervisor itself is not bound: it would wait behind the program's processes, and its clock
        with it.
        """
        if self._neighbours:
            os.sched_setaffinity(0, self._neighbours[linux.current_processor()])
