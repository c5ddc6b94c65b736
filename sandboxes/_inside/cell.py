"""What a tier must be able to do for the programs inside: the walls, as the loop sees them."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

_PIECE = 512
FIRST_LOOK_S = 0.01
"""When a program is checked for the first time, where the kernel counts its processes."""


class Check(NamedTuple):
    """One comparison of use and limits."""

    broken: str | None
    """The status that ends a program: "oom", "pids", "killed" (disk), or None."""
    is_full: bool
    """As many processes and threads as allowed: the next fork fails, or just did."""
    within_s: float
    """Check again at least this soon."""


class Events(NamedTuple):
    """How often the kernel stepped in, since the sandbox began. All 0 where no cgroup counts it."""

    ooms: int = 0
    refused_forks: int = 0

    def since(self, before: Events) -> Events:
        return Events(self.ooms - before.ooms, self.refused_forks - before.refused_forks)


class Home(Protocol):
    """One sandbox, seen from its first process."""

    workspace: int
    """The open workspace directory."""
    first_look_s: float
    """How soon after its start a program is checked for the first time."""

    def renew(self) -> None:
        """In the supervisor, before a program: what an earlier one was granted for a while is over."""
        ...

    def confine(self) -> None:
        """In the child, before the program: give up what is left of its rights."""
        ...

    def check(self) -> Check:
        """Compare what is used now with the limits."""
        ...

    def use(self, pids: list[int], broken: str) -> int:
        """How much these processes have of what `check` found broken."""
        ...

    def events(self) -> Events:
        """The kernel's own counts."""
        ...

    def kill_all(self) -> None:
        """Kill every process but this one. What forks meanwhile may be left: the caller looks again."""
        ...

    def as_program(self) -> AbstractContextManager[None]:
        """Files are touched inside with the rights of the programs."""
        ...

    def is_as_new(self) -> bool:
        """Whether nothing here tells that programs have run. False, where that is not known."""
        ...

    def freeze(self) -> list[int]:
        """Descriptors of the workspace's files as they are, never to change. Raises `files.Refused`."""
        ...

    def leave(self) -> None:
        """Free what outlives the processes."""
        ...


def descendants(root: int) -> list[int]:
    """Every process below `root`, zombies included; parents before their children."""
    return list(descent(root))


def descent(root: int) -> Iterator[int]:
    """The same one by one, each looked up when it is asked for: endless, where they fork fast enough."""
    parents = deque([root])
    while parents:
        for pid in _offspring(parents.popleft()):
            yield pid
            parents.append(pid)


def children(parent: int) -> list[int]:
    return list(_offspring(parent))


def _offspring(parent: int) -> Iterator[int]:
    try:
        for thread in os.listdir(f"/proc/{parent}/task"):
            with open(f"/proc/{parent}/task/{thread}/children", "rb", buffering=0) as file:
                # By the piece: a fork bomb can add more at the end of the list than is read meanwhile.
                begun = b""
                while piece := file.read(_PIECE):
                    *whole, begun = (begun + piece).split(b" ")
                    yield from map(int, whole)
    except (FileNotFoundError, ProcessLookupError):
        # A thread or the whole process has just ended: then its children are its parent's.
        pass
