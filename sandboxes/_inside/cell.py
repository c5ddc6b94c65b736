"""What a tier must be able to do for the programs inside: the walls, as the loop sees them."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol


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
    found = children(root)
    for pid in found:  # which grows meanwhile
        found += children(pid)
    return found


def children(parent: int) -> list[int]:
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{parent}/task"):
            with open(f"/proc/{parent}/task/{thread}/children", "rb") as file:
                found += map(int, file.read().split())
    except (FileNotFoundError, ProcessLookupError):
        # A thread or the whole process has just ended: then its children are its parent's.
        pass
    return found
