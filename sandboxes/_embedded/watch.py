"""Limits that no single kernel limit covers: what all processes of a sandbox use together."""

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import NamedTuple

from .._inside.cell import Check
from .scale import NEVER, Scale

_PAGE = os.sysconf("SC_PAGE_SIZE")
_FILL_RATE = 4e9
"""Bytes a second that a program is assumed to touch at most: how soon the limit could be reached."""
_FORK_RATE = 5e3
"""Processes a second that a program is assumed to start at most."""
MIN_TICK_S, _MAX_TICK_S = 0.002, 0.05
_SOCKET_BUFFER = 212_992
"""Bytes that one socket may hold unread: the kernel's default limit. Pipes it limits by user itself."""


class _Count(NamedTuple):
    members: list[int]
    tasks: int
    resident: int
    """Bytes, each shared page as often as it is mapped."""


class Watch:
    """Adds up memory and tasks of the processes that `processes` names.

    `kernel_counts`: the kernel refuses a fork too many by itself, and nothing hangs on seeing it soon.
    """

    def __init__(
        self, memory_mb: int, pids: int, processes: Callable[[], Iterable[int]], *, kernel_counts: bool = True
    ) -> None:
        self._memory = memory_mb << 20
        self._pids = pids
        self._processes = processes
        self._fork_rate = 0.0 if kernel_counts else _FORK_RATE
        self._scale = None if kernel_counts else Scale()

    def renew(self) -> None:
        """Before a program: what is being weighed is without it."""
        if self._scale is not None:
            self._scale.forget()

    def check(self) -> Check:
        members, tasks, used = self._count()
        # Resident sizes count a shared page once per process; the exact sum costs a page-table walk.
        if used > self._memory:
            used = self._weigh(members, resident=used)
        if tasks > self._pids:
            return Check(broken="pids", is_full=True, within_s=MIN_TICK_S)
        used += self._socket_buffers(members)
        left = self._memory - used
        within_s = min(_MAX_TICK_S, max(MIN_TICK_S, left / _FILL_RATE))
        if self._fork_rate:
            within_s = min(within_s, max(MIN_TICK_S, (self._pids - tasks) / self._fork_rate))
        return Check(broken="oom" if left < 0 else None, is_full=tasks >= self._pids, within_s=within_s)

    def _weigh(self, members: list[int], *, resident: int) -> int:
        """Bytes, each shared page divided by those that share it; the limit while that is not known."""
        if self._scale is None:
            return sum(map(_proportional, members))
        weight = self._scale.weigh(lambda: sum(map(_proportional, members)))
        if weight is None:
            return self._memory
        return resident if weight == NEVER else weight

    def _count(self) -> "_Count":
        members: list[int] = []
        used = tasks = 0
        for pid in self._processes():
            if self._scale is not None and pid == self._scale.pid:
                continue
            members.append(pid)
            rss, threads = _resident(pid)
            used += rss
            tasks += threads
            # Not one more than tells it: a fork bomb can grow faster than it is counted.
            if tasks > self._pids:
                break
        return _Count(members, tasks, used)

    def use(self, pids: list[int], broken: str) -> int:
        """Bytes of memory, or tasks where those are what is broken."""
        if broken == "pids":
            return sum(_resident(pid)[1] for pid in pids)
        return sum(map(_proportional, pids)) + self._socket_buffers(pids)

    def _socket_buffers(self, members: list[int]) -> int:
        """What the sockets could hold in kernel memory, once that could matter."""
        if sum(map(_num_open, members)) * _SOCKET_BUFFER <= self._memory:
            return 0
        return len(set[str]().union(*map(sockets, members))) * _SOCKET_BUFFER


def _num_open(pid: int) -> int:
    """Open descriptors of a process; 0 when it has gone, and before Linux 6.2."""
    try:
        return os.stat(f"/proc/{pid}/fd").st_size
    except OSError:
        return 0


def sockets(pid: int) -> set[str]:
    found: set[str] = set()
    try:
        names = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return found
    for name in names:
        # One that it has just closed hides no other: a program could close and open one all the time.
        with suppress(OSError):
            found.add(os.readlink(f"/proc/{pid}/fd/{name}"))
    return {target for target in found if target.startswith("socket:")}


def _stat(pid: int) -> list[bytes]:
    """The fields of /proc/<pid>/stat from the third on; none when the process has just gone."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY)
    except FileNotFoundError:
        return []
    try:
        # The name in parentheses may hold anything, spaces and parentheses included.
        return os.read(fd, 1024).rpartition(b")")[2].split()
    except ProcessLookupError:
        return []
    finally:
        os.close(fd)


def _resident(pid: int) -> tuple[int, int]:
    """(resident bytes, threads) of a process; zeros when it has just gone."""
    fields = _stat(pid)
    return (int(fields[21]) * _PAGE, int(fields[17])) if fields else (0, 0)


def tasks_of(pid: int, uid: int) -> int:
    """The threads of a process of that user; 0 for another's, and when it has just gone."""
    try:
        is_theirs = os.stat(f"/proc/{pid}").st_uid == uid
    except OSError:
        return 0
    return _resident(pid)[1] if is_theirs else 0


def start_time(pid: int) -> int:
    """When a process started, in clock ticks since boot; 0 when there is none of that number."""
    fields = _stat(pid)
    return int(fields[19]) if fields else 0


def _proportional(pid: int) -> int:
    """Bytes of a process, each shared page divided by those that share it."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            for line in file:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) << 10
    except (FileNotFoundError, ProcessLookupError):
        return 0
    except PermissionError:
        # It made itself unreadable: then its shared pages count in full.
        return _resident(pid)[0]
    return 0


def written(pid: int) -> int:
    """Bytes that a process has written, to whatever it was."""
    try:
        with open(f"/proc/{pid}/io", "rb") as file:
            return int(file.read().split()[3])  # rchar: N wchar: N ...
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return 0


def private_processes() -> list[int]:
    """Every process of this pid namespace but its first."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and name != "1"]
