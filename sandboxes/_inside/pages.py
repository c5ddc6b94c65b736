"""Memory for what passes through a supervisor: files, command lines, standard input, output.

Programs are forks of the supervisor, so what lay in its heap, freed or not, would lie in theirs. These bytes
lie in pages of their own, which a fork finds empty and gives back before anything else; nothing copies them
into `bytes`. The names of files do lie in the heap.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import sys

CHUNK = 1 << 16
"""Bytes that one read of a pipe takes at most: the size of a pipe."""

_WIPE_ON_FORK, _KEEP_ON_FORK, _FIONREAD = 18, 19, 0x541B

_live: set[mmap.mmap] = set()


def waiting(fd: int) -> int:
    """Bytes that a pipe holds."""
    return int.from_bytes(fcntl.ioctl(fd, _FIONREAD, bytes(4)), sys.byteorder)


def _new(size: int) -> mmap.mmap:
    # Private: a program that inherits them must not write to its supervisor's.
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    # Else they would count in the memory of each program, as of its fork.
    pages.madvise(_WIPE_ON_FORK)
    _live.add(pages)
    return pages


def _free(pages: mmap.mmap) -> None:
    _live.discard(pages)
    pages.close()


def free_all_but(kept: Pages) -> None:
    """In a fork: give back what passes through for others. No view of any of it may be open."""
    for pages in _live - {kept.pages}:
        _free(pages)


class Pages:
    """`size` bytes, zero at first."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.filled = 0
        """Bytes that `read_from` has read so far."""
        self.pages = _new(size) if size else None

    def show_to_forks(self, is_shown: bool) -> None:
        """Whether a fork finds them; at first, not."""
        if self.pages is not None:
            self.pages.madvise(_KEEP_ON_FORK if is_shown else _WIPE_ON_FORK)

    def view(self) -> memoryview:
        """The bytes. Release it before `close`."""
        return memoryview(self.pages or b"")

    def read_from(self, fd: int) -> int | None:
        """Read on once: the number of bytes, 0 at the end, None when there is nothing yet."""
        with self.view() as whole, whole[self.filled :] as rest:
            try:
                got = os.readv(fd, [rest])
            except BlockingIOError:
                return None
        self.filled += got
        return got

    def cut(self) -> None:
        """Keep only what was read."""
        if self.pages is not None and self.filled == 0:
            self.close()
        elif self.pages is not None and self.filled < self.size:
            self.pages.resize(self.filled)
        self.size = self.filled

    def close(self) -> None:
        """Give the pages back."""
        if self.pages is not None:
            _free(self.pages)
            self.pages = None


class Capture:
    """The first and the last half of `limit` bytes of a pipe, and the count of what was between them."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._tail_size = limit // 2
        # Cutting only when as much again has come keeps a flood linear: each byte is moved at most once.
        self._most = limit + max(self._tail_size, CHUNK) + CHUNK
        self._pages = _new(CHUNK)
        self._end = 0
        self.omitted = 0
        """Bytes left out of `view` when that was last asked for."""

    def read_from(self, fd: int) -> int | None:
        """Take what is there now: the number of bytes, 0 at the end, None when there is nothing yet."""
        self._make_room()
        with memoryview(self._pages) as whole, whole[self._end : self._end + CHUNK] as room:
            try:
                got = os.readv(fd, [room])
            except BlockingIOError:
                return None
        self._end += got
        return got

    def _make_room(self) -> None:
        if self._end + CHUNK > len(self._pages):
            if len(self._pages) < self._most:
                self._pages.resize(min(2 * len(self._pages), self._most))
            if self._end + CHUNK > len(self._pages):
                self._cut()

    def _cut(self) -> None:
        excess = self._end - self._limit
        if excess > 0:
            self._pages.move(self._limit - self._tail_size, self._end - self._tail_size, self._tail_size)
            self._end = self._limit
            self.omitted += excess

    def view(self) -> memoryview:
        """At most `limit` bytes. Release it before `close`."""
        self._cut()
        with memoryview(self._pages) as whole:
            return whole[: self._end]

    def ends_with_any(self, words: tuple[bytes, ...], within: int) -> bool:
        """Whether one of `words` is in the last `within` bytes that were kept."""
        self._cut()
        start = max(0, self._end - within)
        return any(self._pages.find(word, start, self._end) >= 0 for word in words)

    def close(self) -> None:
        """Give the pages back."""
        _free(self._pages)
