"""The workspace of the namespaces tier as layers, so that a fork shares the files that were there before it.

    tmpfs of a sandbox     tmp  shm  0  work-1  1 ...     each number is a layer; the last one is written to
    /workspace             layer 0 itself; after a fork, an overlay of the last layer over all before it
    in the fork            its own tmpfs, whose layer is written to over detached copies of ours

A layer that was forked is never written to again: both sides go on in layers of their own.
What overlayfs does not hide: renaming a directory from before the fork fails with EXDEV, as between two file
systems (`mv` copies it then), and such a file that is written to for the first time becomes another inode.
"""

from __future__ import annotations

import os

from .._inside import linux
from .._inside.files import Refused

MAX_LAYERS = 48
"""The paths of all must fit into the one page that mount() takes."""


class Layers:
    """`root` is the open directory of the tmpfs; programs see the workspace at `target`."""

    def __init__(self, root: int, target: str, inherited: list[int]) -> None:
        self._root = root
        self._target = target
        self._count = 0
        self._lower: list[str] = []
        for copy in inherited:
            path = self._path(f"below-{len(self._lower)}")
            os.mkdir(path)
            linux.attach(copy, path)
            linux.mount_setattr(path, linux.ATTR_RDONLY)
            os.close(copy)
            self._lower.append(path)
        os.mkdir(self._path("0"), 0o755)

    def _path(self, name: str) -> str:
        """By the descriptor: the tmpfs has no name of its own inside."""
        return f"/proc/self/fd/{self._root}/{name}"

    def show(self) -> None:
        """Put the workspace where programs see it."""
        upper = self._path(str(self._count))
        if not self._lower:
            linux.mount(upper, self._target, None, linux.MS_BIND)
            return
        work = self._path(f"work-{self._count}")
        os.mkdir(work)
        options = f"lowerdir={':'.join(self._lower)},upperdir={upper},workdir={work},userxattr"
        linux.mount("workspace", self._target, "overlay", linux.MS_NOSUID | linux.MS_NODEV, options)

    def freeze(self) -> list[int]:
        """Never write to what is there again. Copies of the mounts of all layers, the newest first.

        No process may have the workspace open. Raises `Refused` with too many layers.
        """
        if os.listdir(self._path(str(self._count))):
            if len(self._lower) == MAX_LAYERS:
                raise Refused(
                    f"the workspace has {MAX_LAYERS} layers, one for each fork that it went through"
                )
            linux.umount_lazily(self._target)
            self._lower.insert(0, self._path(str(self._count)))
            self._count += 1
            os.mkdir(self._path(str(self._count)), 0o755)
            self.show()
        return [linux.detached_copy(path, recursive=False) for path in self._lower]
