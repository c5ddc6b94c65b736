"""The file calls of a Docker sandbox, inside its container. Part of the guest.

No program is alive while these run, so nothing can change between a check and its use. They run with the
programs' user id: a path can reach nothing that a program could not reach itself. Links are never followed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Refused(Exception):
    """The path or the file is not one that we touch."""


def _components(path: bytes) -> list[bytes]:
    parts = [part for part in path.split(b"/") if part not in (b"", b".")]
    if path.startswith(b"/") or b".." in parts:
        raise Refused("the path must be relative to the workspace, without ..")
    return parts


class Files:
    """The tree under one directory descriptor."""

    def __init__(self, root: int) -> None:
        self._root = root

    def _open_directory(self, parts: list[bytes], *, create: bool = False) -> int:
        """A descriptor of the directory; the caller closes it."""
        at = os.dup(self._root)
        try:
            for part in parts:
                if create:
                    with suppress(FileExistsError):
                        os.mkdir(part, 0o755, dir_fd=at)
                below = os.open(part, _DIRECTORY, dir_fd=at)
                os.close(at)
                at = below
        except BaseException:
            os.close(at)
            raise
        return at

    def create(self, path: bytes) -> int:
        """A descriptor of a new, empty regular file in the place of what regular file was there."""
        parts = _components(path)
        if not parts:
            raise Refused("the path names the workspace itself")
        parent = self._open_directory(parts[:-1], create=True)
        try:
            try:
                if not stat.S_ISREG(os.lstat(parts[-1], dir_fd=parent).st_mode):
                    raise Refused("the path exists and is not a regular file")
                # Unlinked, not truncated: a read-only file is replaced, and a hard link's twin is left alone.
                os.unlink(parts[-1], dir_fd=parent)
            except FileNotFoundError:
                pass
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            return os.open(parts[-1], flags, 0o644, dir_fd=parent)
        finally:
            os.close(parent)

    def chunks(self, path: bytes, max_bytes: int, size: int) -> Iterator[bytes]:
        """The content of a regular file of at most `max_bytes`, in pieces of at most `size`."""
        parts = _components(path)
        if not parts:
            raise Refused("the path names the workspace itself")
        parent = self._open_directory(parts[:-1])
        try:
            # O_NONBLOCK: opening a FIFO without a writer would wait for ever.
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            file = os.open(parts[-1], flags, dir_fd=parent)
        finally:
            os.close(parent)
        try:
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode):
                raise Refused("not a regular file")
            if status.st_size > max_bytes:
                raise Refused(f"the file has {status.st_size} bytes, over max_bytes={max_bytes}")
            while chunk := os.read(file, size):
                yield chunk
        finally:
            os.close(file)

    def names(self, path: bytes) -> list[bytes]:
        """Sorted names in a directory; directories end with "/"."""
        at = self._open_directory(_components(path))
        try:
            with os.scandir(at) as entries:
                return sorted(
                    os.fsencode(entry.name) + (b"/" if entry.is_dir(follow_symlinks=False) else b"")
                    for entry in entries
                )
        finally:
            os.close(at)

    def remove(self, path: bytes) -> None:
        """Remove a file, a link or a whole directory, however deep."""
        parts = _components(path)
        if not parts:
            raise Refused("the workspace itself cannot be removed")
        parent = self._open_directory(parts[:-1])
        try:
            if stat.S_ISDIR(os.lstat(parts[-1], dir_fd=parent).st_mode):
                self._remove_directory(parts[-1], parent)
            else:
                os.unlink(parts[-1], dir_fd=parent)
        finally:
            os.close(parent)

    def _remove_directory(self, name: bytes, parent: int) -> None:
        """Flatten, then delete: each directory inside is moved up beside `name`, so depth costs nothing.

        Neither a path nor the stack nor the open descriptors grow with a tree of 100,000 levels.
        """
        waiting = [name]
        moved = 0
        while waiting:
            top = waiting.pop()
            os.chmod(top, 0o700, dir_fd=parent)
            at = os.open(top, _DIRECTORY, dir_fd=parent)
            try:
                with os.scandir(at) as entries:
                    inside = [(os.fsencode(e.name), e.is_dir(follow_symlinks=False)) for e in entries]
                for entry, is_directory in inside:
                    if not is_directory:
                        os.unlink(entry, dir_fd=at)
                        continue
                    os.chmod(entry, 0o700, dir_fd=at)  # moving a directory writes its ".."
                    while True:
                        moved += 1
                        aside = b".removing-%d" % moved
                        try:
                            os.lstat(aside, dir_fd=parent)
                        except FileNotFoundError:
                            break
                    os.rename(entry, aside, src_dir_fd=at, dst_dir_fd=parent)
                    waiting.append(aside)
            finally:
                os.close(at)
            os.rmdir(top, dir_fd=parent)
