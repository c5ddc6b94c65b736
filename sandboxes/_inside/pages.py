"""Memory for what passes through a supervisor: files, command lines, standard input, output.

Programs are forks of the supervisor, so what lay in its heap, freed or not, would lie in theirs. These bytes
lie in pages of their own, which go back to the kernel before the next fork; nothing copies them into `bytes`.
The names of files do lie in the heap.
"""

import mmap
import os

CHUNK = 1 << 16
"""Bytes that one read of a pipe takes at most: the size of a pipe."""


def _new(size: int) -> mmap.mmap:
    # Private: a program that inherits them must not write to its supervisor's.
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


class Pages:
    """`size` bytes, zero at first."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._map = _new(size) if size else None

    def view(self) -> memoryview:
        """The bytes. Release it before `close`."""
        return memoryview(self._map or b"")

    def fill_from(self, fd: int) -> int:
        """Read until they are full or the file ends; the number of bytes read."""
        at = 0
        with self.view() as whole:
            while at < self.size:
                with whole[at:] as rest:
                    got = os.readv(fd, [rest])
                if not got:
                    break
                at += got
        return at

    def close(self) -> None:
        """Give the pages back."""
        if self._map is not None:
            self._map.close()


class Capture:
    """`output.HeadTail` outside the heap: the first and the last half of `limit` bytes of a pipe."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._tail_size = limit // 2
        # Cutting only when as much again has come keeps a flood linear: each byte is moved at most once.
        self._most = limit + max(self._tail_size, CHUNK) + CHUNK
        self._map = _new(CHUNK)
        self._end = 0
        self.omitted = 0
        """Bytes left out of `kept` when that was last asked for."""

    def read_from(self, fd: int) -> int | None:
        """Take what is there now: the number of bytes, 0 at the end, None when there is nothing yet."""
        self._make_room()
        with memoryview(self._map) as whole, whole[self._end : self._end + CHUNK] as room:
            try:
                got = os.readv(fd, [room])
            except BlockingIOError:
                return None
        self._end += got
        return got

    def _make_room(self) -> None:
        if self._end + CHUNK > len(self._map):
            if len(self._map) < self._most:
                self._map.resize(min(2 * len(self._map), self._most))
            if self._end + CHUNK > len(self._map):
                self._cut()

    def _cut(self) -> None:
        excess = self._end - self._limit
        if excess > 0:
            self._map.move(self._limit - self._tail_size, self._end - self._tail_size, self._tail_size)
            self._end = self._limit
            self.omitted += excess

    def kept(self) -> memoryview:
        """At most `limit` bytes. Release it before `close`."""
        self._cut()
        with memoryview(self._map) as whole:
            return whole[: self._end]

    def ends_with_any(self, words: tuple[bytes, ...], within: int) -> bool:
        """Whether one of `words` is in the last `within` bytes that were kept."""
        self._cut()
        start = max(0, self._end - within)
        return any(self._map.find(word, start, self._end) >= 0 for word in words)

    def close(self) -> None:
        """Give the pages back."""
        self._map.close()
