"""The file calls, from inside: beneath the workspace, regular files only, no link ever followed.

Programs may run meanwhile, and what they leave (links, pipes, deep trees) is theirs to choose: every step is
by a name in an open directory.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from itertools import count

from . import linux
from .pages import Pages

_BENEATH = linux.RESOLVE_BENEATH | linux.RESOLVE_NO_SYMLINKS | linux.RESOLVE_NO_MAGICLINKS
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY
_MAX_PATH = 4095
_WORDS = {
    errno.ENOENT: "there is no such file",
    errno.ELOOP: "it is a symbolic link, or lies behind one",
    errno.EXDEV: "it is outside the workspace",
    errno.ENXIO: "it is not a regular file",
    errno.ENOSPC: "the workspace is full",
    errno.EFBIG: "the workspace is full",
}


class Refused(Exception):
    """A file call that was refused, with the reason in words."""


def explain(path: str, error: OSError) -> str:
    return f"{path!r}: {_WORDS.get(error.errno or 0, os.strerror(error.errno or 0))}"


def write(root: int, path: str, data: memoryview) -> None:
    """A new file that begins with `data`."""
    parent, name = _parent(root, path, make=True)
    try:
        fd = _create(parent, name, path)
        try:
            _write_all(fd, data)
        except OSError:
            os.unlink(name, dir_fd=parent)  # half a file is worse than none
            raise
        finally:
            os.close(fd)
    finally:
        os.close(parent)


def append(root: int, path: str, data: memoryview) -> None:
    """The next part of a file."""
    fd = linux.openat2(root, _encoded(path), os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK, _BENEATH)
    try:
        _require_regular(os.fstat(fd), path)
        _write_all(fd, data)
    finally:
        os.close(fd)


def _write_all(fd: int, data: memoryview) -> None:
    at = 0
    while at < len(data):
        with data[at:] as rest:
            at += os.write(fd, rest)


def _create(parent: int, name: bytes, path: str) -> int:
    """A new, empty file in the place of what regular file was there."""
    with suppress(FileNotFoundError):
        _require_regular(os.stat(name, dir_fd=parent, follow_symlinks=False), path)
        # Unlinked, not truncated: a read-only file is replaced, and a hard link's twin is left alone.
        os.unlink(name, dir_fd=parent)
    return linux.openat2(parent, name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _BENEATH, 0o644)


def read(root: int, path: str, max_bytes: int, at: int, most: int) -> Pages:
    """From `at` on, `most` bytes or what there is. They are the caller's to close."""
    fd = linux.openat2(root, _encoded(path), os.O_RDONLY | os.O_NONBLOCK, _BENEATH)
    try:
        size = _require_regular(os.fstat(fd), path)
        if size > max_bytes:
            raise Refused(f"{path!r}: it has {size} bytes, over max_bytes={max_bytes}")
        content = Pages(min(most, max(0, size - at)))
        os.lseek(fd, at, os.SEEK_SET)
        while content.filled < content.size and content.read_from(fd):
            pass
        content.cut()  # it may have shrunk
        return content
    finally:
        os.close(fd)


def listing(root: int, path: str) -> list[str]:
    fd = linux.openat2(root, _encoded(path), _DIRECTORY, _BENEATH)
    try:
        with os.scandir(fd) as entries:
            return sorted(
                entry.name + ("/" if entry.is_dir(follow_symlinks=False) else "") for entry in entries
            )
    finally:
        os.close(fd)


def remove(root: int, path: str) -> None:
    parent, name = _parent(root, path, make=False)
    try:
        if stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            remove_tree(parent, name)
        else:
            os.unlink(name, dir_fd=parent)
    finally:
        os.close(parent)


def remove_tree(parent: int, name: bytes) -> None:
    """Remove a directory of any depth: flatten it into its top, then delete.

    Every step is by a name in an open directory, and none by "..": a directory that a program moves away
    meanwhile leads nowhere else. Neither a path nor the open descriptors grow with the depth.
    """
    top = enter(parent, name)
    try:
        waiting = _clear_files(top)
        moved = (b"%s-%d" % (os.urandom(8).hex().encode(), number) for number in count())
        while waiting:
            child = waiting.pop()
            current = enter(top, child)
            try:
                for below in _clear_files(current):
                    # Moving a directory writes its "..", for which it may lack the rights.
                    os.close(enter(current, below))
                    waiting.append(next(moved))
                    os.rename(below, waiting[-1], src_dir_fd=current, dst_dir_fd=top)
            finally:
                os.close(current)
            os.rmdir(child, dir_fd=top)
    finally:
        os.close(top)
    os.rmdir(name, dir_fd=parent)


def _clear_files(directory: int) -> list[bytes]:
    """Unlink everything but the directories; their names."""
    with os.scandir(directory) as entries:
        found = [(os.fsencode(entry.name), entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_directory in found:
        if not is_directory:
            os.unlink(name, dir_fd=directory)
    return [name for name, is_directory in found if is_directory]


def enter(directory: int, name: bytes | str) -> int:
    """Open a directory, and give its owner back the rights that a program may have taken away."""
    try:
        fd = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
    except PermissionError:
        # By a handle of the directory itself: chmod of its name would follow a link that has taken its place.
        handle = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
        try:
            os.chmod(f"/proc/self/fd/{handle}", 0o700)
            fd = os.open(".", _DIRECTORY, dir_fd=handle)
        finally:
            os.close(handle)
    os.fchmod(fd, 0o700)
    return fd


def _encoded(path: str) -> bytes:
    try:
        name = os.fsencode(path)
    except UnicodeEncodeError:  # half of a surrogate pair
        name = b""
    if not 0 < len(name) <= _MAX_PATH or b"\0" in name:
        raise Refused(f"{path!r}: a path is UTF-8 text of 1 to {_MAX_PATH} bytes without NUL")
    return name


def _parent(root: int, path: str, *, make: bool) -> tuple[int, bytes]:
    """The open parent directory of `path`, and its last name. With `make`, parents are created."""
    *directories, name = [part for part in _encoded(path).split(b"/") if part not in (b"", b".")] or [b".."]
    if path.startswith("/") or name == b"..":
        raise Refused(f"{path!r}: it is outside the workspace, or is the workspace itself")
    current = linux.openat2(root, b".", _DIRECTORY, _BENEATH)
    for part in directories:
        try:
            if make:
                with suppress(FileExistsError):
                    os.mkdir(part, 0o755, dir_fd=current)
            below = linux.openat2(current, part, _DIRECTORY, _BENEATH)
        finally:
            os.close(current)
        current = below
    return current, name


def _require_regular(found: os.stat_result, path: str) -> int:
    """Its size in bytes."""
    if not stat.S_ISREG(found.st_mode):
        raise Refused(f"{path!r}: it is not a regular file")
    return found.st_size
