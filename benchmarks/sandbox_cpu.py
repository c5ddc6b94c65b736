"""Processor time of what works for a benchmark: this process, its descendants, and a Docker engine."""

import math
import os
import resource
from collections.abc import Iterator
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_ENGINE = ("dockerd", "containerd")


def tree_cpu_s() -> float:
    """Seconds of this process and of all that descend from it, those that have ended included.

    A program that nobody waited for is missing.
    """
    ended = sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )
    return ended + sum(map(_cpu_s, _descendants(os.getpid())))


def engine_cpu_s(container: str) -> float:
    """Seconds of the Docker engine, what it does for others included, and of this one container.

    NaN where the engine's processes are not in sight.
    """
    total, is_found = 0.0, False
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        name = _read(f"/proc/{pid}/comm").strip()
        if name in _ENGINE:
            total, is_found = total + _cpu_s(pid), True
        elif container and name.startswith("containerd-shim") and container in _read(f"/proc/{pid}/cmdline"):
            total += _cpu_s(pid) + sum(map(_cpu_s, _descendants(pid)))
    return total if is_found else math.nan


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:  # it has ended
        return ""


def _cpu_s(pid: int) -> float:
    """Of one process and the children that it has waited for."""
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / _TICKS_PER_S


def _descendants(pid: int) -> Iterator[int]:
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:  # it has ended
        return
    for thread in threads:
        for child in map(int, _read(f"/proc/{pid}/task/{thread}/children").split()):
            yield child
            yield from _descendants(child)
