"""The namespaces tier: one template root per zygote, and the private mounts of each sandbox.

    zygote   mount namespace with a small read-only root: system directories, the interpreter, /dev, /etc
    sandbox  a copy of it in a user namespace of its own, plus a private /proc and one tmpfs that holds
             /workspace, /tmp and /dev/shm, so that `disk_mb` counts all three together

The host's root is detached from the template: a sandbox has no mount through which to reach it.
"""

import os
import re
import signal
from contextlib import AbstractContextManager, nullcontext, suppress

from .._inside import linux
from .._inside.cell import FIRST_LOOK_S, Check, Events
from .._inside.linux import MS_BIND, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_PRIVATE, MS_RDONLY, MS_REC
from . import seccomp
from .layers import Layers
from .supervisor import Opening, Pin, limit_files, settle
from .watch import Watch, private_processes

WORKSPACE = "/workspace"
INNER_ID = 1000
"""The user and group number that programs see."""

_WRITABLE = (WORKSPACE, "/tmp", "/dev/shm")
_SYSTEM = ("bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr")
_DEVICES = ("null", "zero", "full", "random", "urandom")
_LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
}
_ACCOUNTS = {
    "passwd": "root:x:0:0::/:/usr/sbin/nologin\n"
    f"sandbox:x:{INNER_ID}:{INNER_ID}::{WORKSPACE}:/bin/sh\n"
    "nobody:x:65534:65534::/:/usr/sbin/nologin\n",
    "group": f"root:x:0:\nsandbox:x:{INNER_ID}:\nnogroup:x:65534:\n",
    "hosts": "127.0.0.1 localhost\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}
_COPIED = ("ld.so.cache", "localtime", "mime.types", "protocols", "services")
_COUNTERS = ("/proc/net/snmp", "/proc/net/snmp6", "/proc/net/unix")
_MOST = 1 << 16
"""Bytes of one of them that are compared."""
_find_sockets = re.compile(rb"(?:inuse|tw) \d+").findall
_INODES_PER_MB = 64
_FILTER = seccomp.build_filter(in_namespaces=True)


def enter_template(prefixes: tuple[str, ...]) -> None:
    """Give this process a mount namespace whose root holds only what every sandbox may read.

    `prefixes` are the directories of the interpreter and its packages; each appears at its own path, without
    its siblings.
    """
    if can_switch_user():
        linux.unshare(linux.NEWNS)
    else:
        uid, gid = os.geteuid(), os.getegid()
        linux.unshare(linux.NEWUSER | linux.NEWNS)
        map_ids(uid, gid, uid, gid)
    # A link in a prefix's path would lead into the new root once the old one has moved.
    sources = {prefix: os.path.realpath(prefix) for prefix in prefixes}
    linux.mount("none", "/", None, MS_REC | MS_PRIVATE)
    linux.mount("palaestra", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "size=4m,mode=0755")
    os.mkdir("/tmp/old")
    linux.pivot_root("/tmp", "/tmp/old")
    os.chdir("/")
    _bind_system(sources)
    _make_dev()
    _make_etc()
    for path in (WORKSPACE, "/tmp", "/proc"):
        os.mkdir(path)
    # A new /proc may be mounted later only while a whole one is in sight; each sandbox covers this one.
    linux.mount("/old/proc", "/proc", None, MS_BIND | MS_REC)
    linux.umount_lazily("/old")
    os.rmdir("/old")
    linux.mount("none", "/", None, MS_BIND | linux.MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV)


def map_ids(inner_uid: int, inner_gid: int, outer_uid: int, outer_gid: int) -> None:
    """Name this process's one user and group inside its new user namespace."""
    for name, line in (
        ("setgroups", "deny"),
        ("uid_map", f"{inner_uid} {outer_uid} 1"),
        ("gid_map", f"{inner_gid} {outer_gid} 1"),
    ):
        fd = os.open(f"/proc/self/{name}", os.O_WRONLY)
        os.write(fd, line.encode())
        os.close(fd)


def _bind_system(prefixes: dict[str, str]) -> None:
    for name in _SYSTEM:
        if os.path.islink(f"/old/{name}"):
            os.symlink(os.readlink(f"/old/{name}"), f"/{name}")
        elif os.path.isdir(f"/old/{name}"):
            _bind_read_only(f"/{name}", f"/{name}")
    for prefix, source in prefixes.items():
        if not os.path.isdir(prefix):
            _bind_read_only(source, prefix)


def _bind_read_only(source: str, path: str) -> None:
    os.makedirs(path)
    linux.mount(f"/old{source}", path, None, MS_BIND | MS_REC)
    linux.mount_setattr(path, linux.ATTR_RDONLY | linux.ATTR_NOSUID | linux.ATTR_NODEV)


def _make_dev() -> None:
    os.mkdir("/dev")
    os.mkdir("/dev/shm")
    for name in _DEVICES:
        os.close(os.open(f"/dev/{name}", os.O_CREAT | os.O_WRONLY, 0o666))
        linux.mount(f"/old/dev/{name}", f"/dev/{name}", None, MS_BIND)
        linux.mount_setattr(f"/dev/{name}", linux.ATTR_RDONLY | linux.ATTR_NOSUID | linux.ATTR_NOEXEC)
    for name, target in _LINKS.items():
        os.symlink(target, f"/dev/{name}")


def _make_etc() -> None:
    os.mkdir("/etc")
    for name, text in _ACCOUNTS.items():
        _write(f"/etc/{name}", text.encode())
    for name in _COPIED:
        try:
            with open(f"/old/etc/{name}", "rb") as file:
                _write(f"/etc/{name}", file.read())
        except FileNotFoundError:
            continue
    if os.path.isdir("/old/etc/alternatives"):
        _bind_read_only("/etc/alternatives", "/etc/alternatives")


def _write(path: str, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)


def furnish(disk_mb: int, outer_uid: int, outer_gid: int, inherited: list[int]) -> Layers:
    """Inside fresh namespaces: the private /proc and the one writable file system."""
    map_ids(INNER_ID, INNER_ID, outer_uid, outer_gid)
    linux.sethostname(b"sandbox")
    linux.raise_loopback()
    linux.mount("proc", "/proc", "proc", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC)
    size = f"size={disk_mb}m,nr_inodes={max(2048, disk_mb * _INODES_PER_MB)},mode=0755"
    linux.mount("sandbox", WORKSPACE, "tmpfs", MS_NOSUID | MS_NODEV, size)
    os.umask(0)
    for name, target in (("tmp", "/tmp"), ("shm", "/dev/shm")):
        os.mkdir(f"{WORKSPACE}/{name}", 0o1777)
        linux.mount(f"{WORKSPACE}/{name}", target, None, MS_BIND)
    os.umask(0o022)
    layers = Layers(os.open(WORKSPACE, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), WORKSPACE, inherited)
    # It covers the tmpfs, so that no other name leads to its parts.
    layers.show()
    return layers


def _mapped_ids() -> tuple[int, int]:
    """(first, count) of the widest range of user numbers that this user namespace knows."""
    with open("/proc/self/uid_map") as file:
        extents = [tuple(map(int, line.split())) for line in file]
    first, _, count = max(extents, key=lambda extent: extent[2])
    return first, count


def can_switch_user() -> bool:
    """Whether this is a root that can hand programs to another user: in a one-user namespace it cannot."""
    return os.geteuid() == 0 and _mapped_ids()[1] > 2


def other_id(seed: int) -> int:
    """A user number that belongs to nobody, from the upper half of those that exist here.

    Two values of `seed` (process ids) get two numbers where the range is wide enough.
    """
    first, count = _mapped_ids()
    half = count // 2
    return first + half + seed % min(half, 1 << 22)


def become(uid: int) -> None:
    """Root gives up every privilege for good; capabilities go with the user."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    # A process that changed its user may not open its own /proc files, uid_map among them.
    linux.prctl(linux.PR_SET_DUMPABLE, 1)


class NamespaceHome:
    """One sandbox of this tier, seen from its supervisor, which is process 1 of its namespaces."""

    first_look_s = FIRST_LOOK_S

    def __init__(self, opening: Opening, outer_uid: int, outer_gid: int, allowed: list[int]) -> None:
        self._layers = furnish(opening["disk_mb"], outer_uid, outer_gid, opening["layers"])
        # Of its own namespaces only, and of no program: a fork of the workspace mounts it anew.
        linux.rest_capabilities()
        settle(opening["memory_mb"], opening["pids"])
        self._enter_workspace()
        self._watch = Watch(opening["memory_mb"], opening["pids"], private_processes)
        self._pin = Pin(opening["cpus"], allowed)
        self._has_inherited = bool(opening["layers"])
        self._counters = [
            os.open(path, os.O_RDONLY | os.O_CLOEXEC) for path in _COUNTERS if os.path.exists(path)
        ]
        self._sockets = os.open("/proc/net/sockstat", os.O_RDONLY | os.O_CLOEXEC)
        self._first_traces = self._traces()
        self._first_times = [(at.st_atime_ns, at.st_mtime_ns) for at in map(os.stat, _WRITABLE)]

    def _enter_workspace(self) -> None:
        os.chdir(WORKSPACE)
        self.workspace = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def is_as_new(self) -> bool:
        if self._has_inherited or self._traces() != self._first_traces:
            return False
        # A program may set them to what it likes, and reading alone changes some.
        for path, times in zip(_WRITABLE, self._first_times, strict=True):
            os.utime(path, ns=times)
        return True

    def _traces(self) -> object:
        """All that a program without rights can leave: files, the looks of directories, sockets that wait.

        System V and POSIX memory and queues are refused by the filter. Numbers of processes go on.
        """
        # Attributes of files can't be set. Asked in few objects: this runs while each page costs a copy.
        used = os.statvfs(self.workspace)
        shown = [os.stat(path) for path in _WRITABLE]
        return (
            used.f_files - used.f_ffree,
            used.f_blocks - used.f_bfree,
            [(found.st_mode, found.st_uid, found.st_gid, found.st_nlink) for found in shown],
            # Its own numbers of open and of waiting sockets are in the first; the second counts what passed.
            _find_sockets(os.pread(self._sockets, _MOST, 0)),
            # What was sent, and what could not be: everybody here can read how often. Sockets that were sent
            # over each other outlive all who had them, with their names, and locked files sent beside them.
            [os.pread(counter, _MOST, 0) for counter in self._counters],
        )

    def freeze(self) -> list[int]:
        os.close(self.workspace)
        os.chdir("/")
        linux.wake_capabilities()
        try:
            return self._layers.freeze()
        finally:
            linux.rest_capabilities()
            self._enter_workspace()

    def renew(self) -> None:
        pass

    def confine(self) -> None:
        linux.drop_capabilities()
        limit_files()
        self._pin.bind()
        _FILTER.install()

    def check(self) -> Check:
        return self._watch.check()

    def use(self, pids: list[int], broken: str) -> int:
        return self._watch.use(pids, broken)

    def events(self) -> Events:
        return Events()

    def as_program(self) -> AbstractContextManager[None]:
        return nullcontext()

    def kill_all(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)

    def leave(self) -> None:
        """The kernel takes the mounts with the last process."""
