"""The landlock tier: for machines that forbid user namespaces. The host's own files, behind Landlock.

    workspace   a private directory on the host, in memory where /dev/shm has room; the supervisor removes it
    processes   found by descent: the supervisor is a subreaper, so that no orphan leaves its tree
    limits      the supervisor adds up memory, processes and disk; between two looks a program can overshoot

Weaker than namespaces: programs see that a path of the host exists (not what is in it), and have no /proc.
The tier unsafe-local is the same without the walls: limits, and the end of every process, and nothing else.
"""

from __future__ import annotations

import os
import resource
import signal
import stat
from collections.abc import Collection, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from itertools import islice

from .._inside import files, linux
from .._inside.cell import FIRST_LOOK_S, Check, Events, children, descendants, descent
from . import landlock, seccomp
from .disk import DiskMeter
from .namespaces import become, can_switch_user, other_id
from .supervisor import Opening, Pin, limit_files, settle
from .watch import MIN_TICK_S, Watch, start_time, tasks_of, written

_SYSTEM = (
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/usr",
    "/etc/ld.so.cache",
    "/etc/alternatives",
)
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
_BASES = ("/dev/shm", "/tmp")
_PREFIX = "palaestra"
_MOST_STARTED = 1 << 13


@dataclass(frozen=True, kw_only=True, slots=True)
class Grounds:
    """What every sandbox of a zygote shares, made before any fork."""

    is_alone: bool
    """Each sandbox has a user number of its own."""
    processors: list[int]
    room: int
    """Tasks that this user may have, where it has others than a sandbox's: what a program can start before
    the watch has seen it, short of the machine's last process number."""
    walls: Walls | None
    """None: programs reach what their user reaches."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Walls:
    """Around the files and the system calls."""

    prefixes: tuple[str, ...]
    """The interpreter's directories."""
    version: int
    """Of Landlock."""
    filter: seccomp.Filter

    def ruleset(self, directory: str) -> landlock.Ruleset:
        """Everything but the system and `directory` is out of reach."""
        rules = landlock.Ruleset(self.version)
        for path in (*_SYSTEM, *self.prefixes):
            rules.allow(path, landlock.READ)
        for path in _DEVICES:
            rules.allow(path, landlock.USE_DEVICE)
        rules.allow(directory, landlock.CHANGE)
        return rules


def prepare(prefixes: tuple[str, ...], *, has_walls: bool) -> Grounds:
    """In the zygote, once: make sure that programs can reach the interpreter, and sweep."""
    is_alone = can_switch_user()
    walls = _walls(prefixes, is_alone) if has_walls else None
    if is_alone:
        for prefix in prefixes:
            _open_way(prefix)
    linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
    sweep()
    processors = sorted(os.sched_getaffinity(0))
    return Grounds(is_alone=is_alone, walls=walls, processors=processors, room=_num_tasks() + _MOST_STARTED)


def _num_tasks() -> int:
    """Of this user, now."""
    return sum(tasks_of(int(name), os.getuid()) for name in os.listdir("/proc") if name.isdigit())


def _walls(prefixes: tuple[str, ...], is_alone: bool) -> Walls:
    version = landlock.version()
    if version < landlock.MIN_VERSION:
        raise OSError(
            f"filesystem: this kernel's Landlock has version {version} and {landlock.MIN_VERSION} is needed "
            "(Linux 6.2, with landlock in the lsm= list)"
        )
    calls = seccomp.build_filter(
        in_namespaces=False,
        signals=version >= landlock.SCOPES_SIGNALS,
        also=() if is_alone else seccomp.OWNER_CALLS,
    )
    return Walls(prefixes=prefixes, version=version, filter=calls)


def _open_way(prefix: str) -> None:
    """Programs run as another user: show them `prefix` where root's own directories hide it."""
    closed = next((parent for parent in _parents(prefix) if not os.stat(parent).st_mode & 1), None)
    if closed is None:
        return
    try:
        linux.unshare(linux.NEWNS)
        linux.mount("none", "/", None, linux.MS_REC | linux.MS_PRIVATE)
        copy = linux.detached_copy(prefix)
        linux.mount("palaestra", closed, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "size=1m,mode=0755")
        os.makedirs(prefix)
        linux.attach(copy, prefix)
        os.close(copy)
    except OSError as error:
        raise OSError(
            f"filesystem: Python lies in {prefix}, programs run as another user, and {closed} does not let "
            f"others through; chmod o+x it, or use a Python outside it ({error})"
        ) from error


def _parents(path: str) -> Iterator[str]:
    """From the top: /, /root, /root/.pyenv, ..."""
    parts = path.strip("/").split("/")
    return ("/" + "/".join(parts[:depth]) for depth in range(len(parts) + 1))


class HostedHome:
    """One sandbox of this tier, seen from its supervisor."""

    def __init__(self, opening: Opening, grounds: Grounds) -> None:
        self._grounds = grounds
        self._disk_mb, self._pids = opening["disk_mb"], opening["pids"]
        self._pin = Pin(opening["cpus"], grounds.processors)
        self._directory = directory_of(os.getpid(), _base(self._disk_mb))
        os.mkdir(self._directory, 0o700)
        linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
        if grounds.is_alone:
            uid = other_id(os.getpid())
            os.chown(self._directory, uid, uid)
            become(uid)
        linux.drop_capabilities()
        self._furnish()
        # Only a user that has no other process can be counted by the kernel; the watch counts in any case.
        settle(opening["memory_mb"], opening["pids"] if grounds.is_alone else grounds.room)
        self._walls = grounds.walls
        self._ruleset = None if self._walls is None else self._walls.ruleset(self._directory)
        self._watch = Watch(
            *(opening["memory_mb"], self._pids, lambda: descent(os.getpid())),
            kernel_counts=grounds.is_alone,
        )
        self.first_look_s = FIRST_LOOK_S if grounds.is_alone else MIN_TICK_S
        self._meter = DiskMeter(self._directory, self._disk_mb)

    def _furnish(self) -> None:
        for name in ("workspace", "tmp"):
            os.mkdir(f"{self._directory}/{name}", 0o700)
        os.environ["HOME"] = f"{self._directory}/workspace"
        os.environ["TMPDIR"] = f"{self._directory}/tmp"
        os.chdir(os.environ["HOME"])
        self.workspace = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def renew(self) -> None:
        # Not left to the next look: by then the program may have filled what was granted for cleaning up.
        self._meter.renew(self._members())
        self._watch.renew()

    def confine(self) -> None:
        linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
        size = self._disk_mb << 20
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        limit_files()
        self._pin.bind()
        if self._walls is not None and self._ruleset is not None:
            self._ruleset.restrict()
            self._walls.filter.install()

    def check(self) -> Check:
        check = self._watch.check()
        if check.broken is None and self._meter.is_over(self._members()):
            return Check(broken="killed", is_full=check.is_full, within_s=check.within_s)
        return check

    def _members(self) -> list[int]:
        """Its processes, as many as the limit allows: of a fork bomb no list is ever complete."""
        return list(islice(descent(os.getpid()), self._pids))

    def use(self, pids: list[int], broken: str) -> int:
        return sum(map(written, pids)) if broken == "killed" else self._watch.use(pids, broken)

    def events(self) -> Events:
        return Events()

    def as_program(self) -> AbstractContextManager[None]:
        return nullcontext()

    def is_as_new(self) -> bool:
        return False

    def freeze(self) -> list[int]:
        raise files.Refused("this tier has no file system of its own to share")

    def kill_all(self) -> None:
        if self._grounds.is_alone:
            _kill(-1)
        # Groups first, as they are found: to list what a fork bomb has started takes longer than it takes to
        # start as many again.
        _kill_groups(descent(os.getpid()))
        for pid in descent(os.getpid()):
            _kill(pid)

    def leave(self) -> None:
        _remove(self._directory)


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _kill_groups(pids: Iterable[int]) -> None:
    """The process groups of `pids`, each at one moment: none of its members can fork meanwhile."""
    # A program that is new has yet to leave ours.
    done = {os.getpgrp()}
    for pid in pids:
        with suppress(ProcessLookupError):
            group = os.getpgid(pid)
            if group not in done:
                os.killpg(group, signal.SIGKILL)
            done.add(group)


def clean_up_after(pid: int, others: Collection[int]) -> None:
    """In the zygote: what a supervisor left that was killed, its processes (now ours) and its directory."""
    while orphans := [child for child in children(os.getpid()) if child not in others]:
        for orphan in orphans:
            for process in (orphan, *descendants(orphan)):
                _kill(process)
            os.waitpid(orphan, 0)
    for directory, owner, _ in _directories():
        if owner == pid:
            _remove(directory)


def _bases() -> list[str]:
    return [base for base in _BASES if os.path.isdir(base)]


def _base(disk_mb: int) -> str:
    """A directory of the host with room for the workspace: in memory if possible."""
    for base in _bases():
        found = os.statvfs(base)
        if found.f_bavail * found.f_frsize >= disk_mb << 20 and os.access(base, os.W_OK | os.X_OK):
            return base
    raise OSError(f"disk: none of {', '.join(_BASES)} has {disk_mb} MiB free")


def directory_of(pid: int, base: str) -> str:
    """A supervisor's directory. The name tells whether it still lives, even if its number is reused."""
    return f"{base}/{_PREFIX}-{os.stat('/proc/self/ns/pid').st_ino}-{pid}-{start_time(pid)}"


def sweep() -> None:
    """Remove the directories of supervisors that died without doing so."""
    for directory, owner, started in _directories():
        if start_time(owner) != started:
            _remove(directory)


def _directories() -> Iterator[tuple[str, int, int]]:
    """(path, supervisor, when it started) of every workspace that may be ours, the living ones included.

    Whoever may write to /tmp can plant such a name. Root removes only what belongs to the user that the
    supervisor would have become, or it would work on a tree that others change meanwhile.
    """
    # Another container may share these directories, and numbers its processes for itself.
    ours = [_PREFIX, str(os.stat("/proc/self/ns/pid").st_ino)]
    for base in _bases():
        for name in os.listdir(base):
            words = name.split("-")
            if len(words) != 4 or words[:2] != ours or not all(map(str.isdecimal, words[2:])):
                continue
            pid, started = int(words[2]), int(words[3])
            owners = (os.geteuid(), other_id(pid) if can_switch_user() else os.geteuid())
            with suppress(FileNotFoundError):  # its own zygote was faster
                found = os.stat(f"{base}/{name}", follow_symlinks=False)
                if stat.S_ISDIR(found.st_mode) and found.st_uid in owners:
                    yield f"{base}/{name}", pid, started


def _remove(directory: str) -> None:
    parent, name = os.path.split(directory)
    fd = os.open(parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        files.remove_tree(fd, os.fsencode(name))
    except FileNotFoundError:
        return
    finally:
        os.close(fd)
