"""What the container's limits are and how often they were hit, seen from inside. Part of the guest."""

from __future__ import annotations

import os

CGROUP = "/sys/fs/cgroup/"


def _text(*paths: str) -> str:
    """The first of the files that exists, "" when none does: cgroups v2 and v1 name them differently."""
    for path in paths:
        try:
            with open(path) as file:
                return file.read()
        except OSError:
            continue
    return ""


def _limit_is(most: int, *paths: str) -> bool:
    text = _text(*paths).strip()
    return text.isdigit() and int(text) <= most


def _counter(name: str, *paths: str) -> int | None:
    for line in _text(*paths).splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return None


def oom_kills() -> int | None:
    return _counter("oom_kill", CGROUP + "memory.events", CGROUP + "memory/memory.oom_control")


def pid_refusals() -> int | None:
    return _counter("max", CGROUP + "pids.events", CGROUP + "pids/pids.events")


def missing_walls(memory: int, pids: int) -> list[str]:
    """What an engine took without a word and does not do, seen from inside."""
    status = _text("/proc/self/status")
    devices = [line.split(":")[0].strip() for line in _text("/proc/net/dev").splitlines()[2:]]
    walls = {
        "no_new_privs": "NoNewPrivs:\t1\n" in status,
        "seccomp filter": "Seccomp:\t2\n" in status,
        "read-only root": bool(os.statvfs("/").f_flag & os.ST_RDONLY),
        "no network": devices in ([], ["lo"]),
        "memory limit": _limit_is(memory, CGROUP + "memory.max", CGROUP + "memory/memory.limit_in_bytes"),
        "process limit": _limit_is(pids, CGROUP + "pids.max", CGROUP + "pids/pids.max"),
        "memory events": oom_kills() is not None,
        "process events": pid_refusals() is not None,
    }
    return [name for name, holds in walls.items() if not holds]
