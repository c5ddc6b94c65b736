"""Which limits of a sandbox are enforced, and by whom, as a program inside it sees them."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .sandbox import ExecResult, SandboxSpec
from .selftest import open_tier

SPEC = SandboxSpec(memory_mb=64, pids=12, disk_mb=16, cpus=1)
"""The limits that are looked at."""
_SPIN_S = 0.3
_SHARE_SLACK = 1.15

_LOOK = """
import errno, json, os, resource, socket
def number(*paths):
    for path in paths:
        try: text = open("/sys/fs/cgroup/" + path).read().split()
        except OSError: continue
        if text and text[0].isdigit(): return [int(word) for word in text if word.isdigit()]
    return []
def quota():
    both = number("cpu.max") or number("cpu/cpu.cfs_quota_us") + number("cpu/cpu.cfs_period_us")
    return both[0] / both[1] if len(both) == 2 and both[1] else None
def reach(family, address):
    try: socket.socket(family, socket.SOCK_DGRAM).connect(address)
    except OSError as error: return errno.errorcode[error.errno]
    return "out"
disk = os.statvfs(".")
soft = lambda name: resource.getrlimit(name)[0]
print(json.dumps({
    "cgroup_memory": (number("memory.max", "memory/memory.limit_in_bytes") or [None])[0],
    "cgroup_pids": (number("pids.max", "pids/pids.max") or [None])[0],
    "cgroup_cpus": quota(),
    "rlimit_memory": soft(resource.RLIMIT_AS),
    "rlimit_pids": soft(resource.RLIMIT_NPROC),
    "rlimit_file": soft(resource.RLIMIT_FSIZE),
    "file_system": disk.f_blocks * disk.f_frsize,
    "processors": len(os.sched_getaffinity(0)),
    "network": reach(socket.AF_INET, ("203.0.113.1", 9)),
}))
"""
_SPIN = """
import os, sys, time
until = time.monotonic() + float(sys.argv[1])
for _ in range(2):
    if os.fork() == 0:
        while time.monotonic() < until: pass
        os._exit(0)
os.wait(); os.wait()
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Enforcement:
    """One limit of a sandbox.

    >>> (await enforcements("docker"))[0]
    Enforcement(limit='memory', by=('cgroup',), detail='64 MiB of all processes together')
    """

    limit: str
    """"memory", "pids", "disk", "cpus" or "network"."""
    by: Sequence[str]
    """"cgroup", "rlimit", "tmpfs", "affinity", "seccomp", "network namespace"; where none of these is seen,
    the "supervisor" looks and ends what goes over. Empty: nobody enforces it."""
    detail: str


async def enforcements(tier: str) -> Sequence[Enforcement]:
    """Every limit of a tier whose self-test holds. Raises `SandboxError`."""
    box = await open_tier(tier, SPEC)
    try:
        looked = await box.run(["python3", "-c", _LOOK])
        spun = await box.run(["python3", "-c", _SPIN, str(_SPIN_S)])
    finally:
        await box.close()
    facts: dict[str, float | str | None] = json.loads(looked.stdout)
    return [*_memory_and_pids(facts), _disk(facts), _cpus(facts, spun), _network(str(facts["network"]))]


def _seen(facts: Mapping[str, float | str | None], most: Mapping[str, float]) -> list[str]:
    """Whose limits are not over what was asked for, by the first word of the fact's name."""
    found: list[str] = []
    for name, limit in most.items():
        value = facts[name]
        if isinstance(value, (int, float)) and 0 < value <= limit:
            found.append(name.partition("_")[0])
    return found


def _memory_and_pids(facts: Mapping[str, float | str | None]) -> list[Enforcement]:
    memory = _seen(facts, {"cgroup_memory": SPEC.memory_mb << 20}) or ["supervisor"]
    # The first process of a sandbox is the one more.
    pids = _seen(facts, {"cgroup_pids": SPEC.pids + 1, "rlimit_pids": SPEC.pids + 1}) or ["supervisor"]
    return [
        Enforcement(limit="memory", by=memory, detail=f"{SPEC.memory_mb} MiB of all processes together"),
        Enforcement(limit="pids", by=pids, detail=f"{SPEC.pids} processes and threads at one time"),
    ]


def _disk(facts: Mapping[str, float | str | None]) -> Enforcement:
    most = SPEC.disk_mb << 20
    tmpfs = ["tmpfs"] if _seen(facts, {"file_system": most}) else []
    by = tmpfs or ["supervisor", *_seen(facts, {"rlimit_file": most})]
    return Enforcement(limit="disk", by=by, detail=f"{SPEC.disk_mb} MiB of files")


def _cpus(facts: Mapping[str, float | str | None], spun: ExecResult) -> Enforcement:
    """Two processes that do nothing but count get no more than one processor's time."""
    by = _seen(facts, {"cgroup_cpus": SPEC.cpus})
    if facts["processors"] == math.ceil(SPEC.cpus):
        by.append("affinity")
    got = spun.cpu_s / max(spun.wall_s, _SPIN_S)
    whole = "" if "cgroup" in by else "; a fraction counts as a whole processor"
    return Enforcement(
        limit="cpus",
        by=by if spun.ok and got <= SPEC.cpus * _SHARE_SLACK else [],
        detail=f"two busy processes got {got:.2f} of {SPEC.cpus} processors{whole}",
    )


def _network(reach: str) -> Enforcement:
    by = {"EPERM": ["seccomp"], "EACCES": ["seccomp"], "ENETUNREACH": ["network namespace"]}.get(reach, [])
    return Enforcement(limit="network", by=by, detail=f"a way out of here is refused with {reach}")
