"""How much disk a sandbox without a file system of its own uses."""

import os
import stat
import time
from collections.abc import Iterable

from .._inside import files

_MAX_DEPTH = 128
_ENTRIES_PER_MB = 64
_MIN_ENTRIES = 2048
_ROOM_BYTES = 64 << 20
_REST = 20
"""The meter rests this many times as long as it took to read."""


class DiskMeter:
    """Adds up a directory tree, and files that are unlinked yet open."""

    def __init__(self, directory: str, disk_mb: int) -> None:
        self._directory = directory
        self._limits = disk_mb << 20, max(_MIN_ENTRIES, disk_mb * _ENTRIES_PER_MB)
        self._max_bytes, self._max_entries = self._limits
        self.rest_until = 0.0
        """When the meter looks again, by `time.monotonic`."""
        self._was_over = False

    def is_over(self, processes: Iterable[int]) -> bool:
        """Whether the limit is broken: bytes, number of entries, or depth. False while the meter rests."""
        started = time.monotonic()
        if started < self.rest_until and not self._was_over:
            return False
        self._bytes = self._entries = 0
        self._is_deep = False
        fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        over = self._walk(fd, 0) or any(self._unlinked(pid) for pid in processes)
        now = time.monotonic()
        self.rest_until = now + _REST * (now - started)
        if over and not self._was_over:
            # Once: or the next program, which may be there to clean up, would be ended for what it found.
            self._was_over = True
            self._max_bytes += self._max_bytes + _ROOM_BYTES
            self._max_entries *= 2
        elif self._was_over and self._is_within_limits():
            self._was_over = False
            self._max_bytes, self._max_entries = self._limits
        return over

    def renew(self, processes: Iterable[int]) -> None:
        """Before a program: if what broke the limit is gone, the limit is whole again."""
        if self._was_over:
            self.is_over(processes)

    def _is_within_limits(self) -> bool:
        """Whether what broke them was cleaned up."""
        max_bytes, max_entries = self._limits
        return self._bytes <= max_bytes and self._entries <= max_entries and not self._is_deep

    def _walk(self, directory: int, depth: int) -> bool:
        """Add up what is below the open `directory`, and close it; True as soon as a limit is broken."""
        try:
            if depth > _MAX_DEPTH:
                self._is_deep = True
                return not self._was_over
            with os.scandir(directory) as found:
                # Read to its end first: each open level costs one descriptor and not two.
                entries = list(found)
            return any(self._add(directory, entry, depth) for entry in entries)
        finally:
            os.close(directory)

    def _add(self, directory: int, entry: "os.DirEntry[str]", depth: int) -> bool:
        try:
            found = entry.stat(follow_symlinks=False)
            self._bytes += found.st_blocks * 512
            self._entries += 1
            if self._bytes > self._max_bytes or self._entries > self._max_entries:
                return True
            if not stat.S_ISDIR(found.st_mode):
                return False
            if found.st_mode & 0o500 != 0o500:
                # Closed to its owner it would hide what lies in it; a program can still hold it open.
                below = files.enter(directory, entry.name)
            else:
                below = os.open(entry.name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
        except OSError:
            # It went away, or was closed again just now: the next look may find it.
            return False
        return self._walk(below, depth + 1)

    def _unlinked(self, pid: int) -> bool:
        try:
            names = os.listdir(f"/proc/{pid}/fd")
        except OSError:
            return False
        for name in names:
            try:
                found = os.stat(f"/proc/{pid}/fd/{name}")
            except OSError:
                continue
            if found.st_nlink == 0 and stat.S_ISREG(found.st_mode):
                self._bytes += found.st_blocks * 512
        return self._bytes > self._max_bytes
