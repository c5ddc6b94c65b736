"""The Linux system calls that the standard library lacks. Each raises OSError when the kernel refuses.

Only x86-64: `require_linux()` says so in words before any number below is used.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import platform
import socket
import struct
import sys
from collections.abc import Callable
from importlib import import_module

# PyDLL keeps the GIL: after a raw clone() the child holds it, with no other thread to ask.
_libc = ctypes.PyDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.argtypes = [ctypes.c_long] * 7
_syscall.restype = ctypes.c_long
_libc.mount.argtypes = [ctypes.c_char_p] * 3 + [ctypes.c_ulong, ctypes.c_char_p]
_libc.umount2.argtypes = [ctypes.c_char_p, ctypes.c_int]
_libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
_libc.sethostname.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
_libc.unshare.argtypes = [ctypes.c_int]

_CLONE, _CAPSET, _PIVOT_ROOT, _OPENAT2, _MOUNT_SETATTR = 56, 126, 155, 437, 442
_OPEN_TREE, _MOVE_MOUNT, _OPEN_TREE_CLONE, _MOVE_EMPTY_PATH = 428, 429, 1, 4
_SIGCHLD = 17
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1

NEWNS, NEWUTS, NEWIPC = 0x00020000, 0x04000000, 0x08000000
NEWUSER, NEWPID, NEWNET, NEWCGROUP = 0x10000000, 0x20000000, 0x40000000, 0x02000000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
MNT_DETACH = 2

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NAME = 1, 4, 15
PR_SET_SECCOMP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 22, 36, 38

RESOLVE_NO_XDEV, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_BENEATH = 1, 2, 4, 8

_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
ATTR_RDONLY, ATTR_NOSUID, ATTR_NODEV, ATTR_NOEXEC = 1, 2, 4, 8

# The function below signal.signal, which first turns its arguments into enums: 100 pages of a fork's memory.
set_handler: Callable[[int, object], object] = import_module("_signal").signal


def require_linux() -> str | None:
    """Why this machine cannot host an embedded sandbox, or None."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return f"the embedded sandboxes need Linux on x86-64; this is {sys.platform} on {platform.machine()}"
    return None


def _checked(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def syscall(what: str, number: int, *args: int) -> int:
    return _checked(_syscall(number, *args, *([0] * (6 - len(args)))), what)


def clone(flags: int) -> int:
    """fork() with new namespaces. Only for a process with one thread: Python's fork hooks are not run."""
    return syscall("clone", _CLONE, flags | _SIGCHLD)


def unshare(flags: int) -> None:
    _checked(_libc.unshare(flags), "unshare")


def mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    result = _libc.mount(
        os.fsencode(source),
        os.fsencode(target),
        kind.encode() if kind else None,
        flags,
        data.encode() if data else None,
    )
    _checked(result, f"mount {source} on {target}")


def umount_lazily(target: str) -> None:
    _checked(_libc.umount2(os.fsencode(target), MNT_DETACH), f"umount {target}")


def mount_setattr(target: str, attributes: int) -> None:
    """Add attributes to the mount at `target` and to every mount below it."""
    path = ctypes.create_string_buffer(os.fsencode(target))
    attr = ctypes.create_string_buffer(struct.pack("QQQQ", attributes, 0, 0, 0), 32)
    what = f"mount_setattr {target}"
    syscall(
        what,
        _MOUNT_SETATTR,
        _AT_FDCWD,
        ctypes.addressof(path),
        _AT_RECURSIVE,
        ctypes.addressof(attr),
        32,
    )


def detached_copy(path: str, *, recursive: bool = True) -> int:
    """A descriptor of a private copy of the mount (or mounts) at `path`, attached nowhere."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | (_AT_RECURSIVE if recursive else 0)
    return syscall(f"open_tree {path}", _OPEN_TREE, _AT_FDCWD, ctypes.addressof(name), flags)


def attach(mount_fd: int, target: str) -> None:
    """Mount what `detached_copy` made."""
    empty, name = (ctypes.create_string_buffer(os.fsencode(path)) for path in ("", target))
    syscall(
        f"move_mount {target}",
        _MOVE_MOUNT,
        mount_fd,
        ctypes.addressof(empty),
        _AT_FDCWD,
        ctypes.addressof(name),
        _MOVE_EMPTY_PATH,
    )


def pivot_root(new_root: str, put_old: str) -> None:
    new, old = (ctypes.create_string_buffer(os.fsencode(path)) for path in (new_root, put_old))
    syscall("pivot_root", _PIVOT_ROOT, ctypes.addressof(new), ctypes.addressof(old))


def prctl(option: int, value: int = 0, pointer: int = 0) -> None:
    _checked(_libc.prctl(option, value, pointer, 0, 0), f"prctl({option})")


current_processor: Callable[[], int] = _libc.sched_getcpu


def sethostname(name: bytes) -> None:
    _checked(_libc.sethostname(name, len(name)), "sethostname")


# Made here, once: a fork that builds a buffer pays for each page of memory that it touches first.
_CAP_HEADER = ctypes.create_string_buffer(struct.pack("II", 0x20080522, 0), 8)
_NO_CAPS = ctypes.create_string_buffer(24)
_ALL = 0xFFFFFFFF
_RESTING = ctypes.create_string_buffer(struct.pack("6I", 0, _ALL, 0, 0, _ALL, 0), 24)
_DROP = _CAPSET, ctypes.addressof(_CAP_HEADER), ctypes.addressof(_NO_CAPS), 0, 0, 0, 0
_AWAKE = ctypes.create_string_buffer(struct.pack("6I", _ALL, _ALL, 0, _ALL, _ALL, 0), 24)


def drop_capabilities() -> None:
    """Clear the effective, permitted and inheritable sets (the ambient set follows), for good."""
    _checked(_syscall(*_DROP), "capset")


def rest_capabilities() -> None:
    """Clear the effective set, until `wake_capabilities`. For who has all that its user namespace knows."""
    syscall("capset", _CAPSET, ctypes.addressof(_CAP_HEADER), ctypes.addressof(_RESTING))


def wake_capabilities() -> None:
    syscall("capset", _CAPSET, ctypes.addressof(_CAP_HEADER), ctypes.addressof(_AWAKE))


def openat2(directory: int, path: bytes, flags: int, resolve: int, mode: int = 0) -> int:
    """open() that never leaves `directory` and follows no link; see RESOLVE_* in openat2(2)."""
    name = ctypes.create_string_buffer(path)
    how = ctypes.create_string_buffer(struct.pack("QQQ", flags | os.O_CLOEXEC, mode, resolve), 24)
    return syscall("openat2", _OPENAT2, directory, ctypes.addressof(name), ctypes.addressof(how), 24)


def raise_loopback() -> None:
    """Bring up the loopback device of a new network namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _IFF_UP))


def hide_command_line() -> None:
    """Blank this process's argument vector, which /proc/<pid>/cmdline shows to everybody."""
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    # arg_start and arg_end are fields 48 and 49 of proc(5); the split starts at field 3.
    start, end = int(fields[45]), int(fields[46])
    if 0 < start < end:
        ctypes.memset(start, 0, end - start)
