"""Bytes on their way into a pipe of a program."""

from __future__ import annotations

import os
import select
from collections import deque
from collections.abc import Callable

from .pages import Pages
from .reactor import Reactor


class _Part:
    def __init__(self, pages: Pages, at: int, done: Callable[[], None]) -> None:
        self.pages, self.at, self.done = pages, at, done


class Feeder:
    """Writes what it is given as fast as the program reads. The pipe `fd` is its to close."""

    def __init__(self, reactor: Reactor, fd: int, end: Callable[[], None] | None = None) -> None:
        """`end` is called before `fd` is closed: closing one descriptor of a socket alone ends nothing."""
        os.set_blocking(fd, False)
        self._end = end
        self._reactor = reactor
        self._fd = fd
        self._parts: deque[_Part] = deque()
        self._is_last = False

    def put(self, pages: Pages, done: Callable[[], None], *, start: int = 0, is_last: bool) -> None:
        """Write `pages` from `start` on. `done` is called after that, or when nobody will read it."""
        self._is_last = self._is_last or is_last
        self._parts.append(_Part(pages, start, done))
        self._go_on()

    def _go_on(self) -> None:
        while self._parts and self._fd >= 0:
            part = self._parts[0]
            if part.at < part.pages.size and not self._write(part):
                return
            if part.at >= part.pages.size:
                self._parts.popleft().done()
        if self._is_last or self._fd < 0:
            self.close()
        else:
            self._reactor.forget(self._fd)

    def _write(self, part: _Part) -> bool:
        """False when the pipe is full."""
        with part.pages.view() as whole, whole[part.at :] as rest:
            try:
                part.at += os.write(self._fd, rest)
            except BlockingIOError:
                self._reactor.watch(self._fd, select.POLLOUT, self._go_on)
                return False
            except (BrokenPipeError, ConnectionResetError):
                self._stop()
        return True

    def _stop(self) -> None:
        if self._fd >= 0:
            self._reactor.forget(self._fd)
            if self._end is not None:
                self._end()
            os.close(self._fd)
            self._fd = -1

    def close(self) -> None:
        """Give up what is unwritten, and the pipe. Safe to call twice."""
        self._stop()
        while self._parts:
            self._parts.popleft().done()
