"""The only way out of a sandbox with a network policy: connections to a port of its own loopback, as frames.

program ──127.0.0.1:PROXY_PORT──> relay ──"dial", "data", "end"──> driver, which decides and dials
"""

from __future__ import annotations

import os
import select
import socket
import struct
from typing import TYPE_CHECKING

from .feeder import Feeder
from .pages import CHUNK, Pages
from .wire import weight

if TYPE_CHECKING:
    from collections.abc import Callable

    from .reactor import Reactor
    from .wire import Outbox

PROXY_PORT = 3128
FIRST_CHANNEL = 1 << 31
"""Of the connections: the driver numbers its calls below."""
MAX_CONNECTIONS = 64
WINDOW = 1 << 18
"""Bytes of a connection that may be on their way to the driver."""


class Relay:
    """Listens for programs. `Feeder` carries what comes back.

    Sockets are kept as numbers: an object would close its number again in a fork, when that is another file.
    """

    def __init__(self, reactor: Reactor, outbox: Outbox) -> None:
        self._reactor, self._outbox = reactor, outbox
        self._connections: dict[int, _Connection] = {}
        self._next = FIRST_CHANNEL
        listener = socket.socket()
        listener.bind(("127.0.0.1", PROXY_PORT))
        listener.listen(MAX_CONNECTIONS)
        listener.setblocking(False)
        self._listener = listener.detach()
        self._listen()

    def _listen(self) -> None:
        self._reactor.watch(self._listener, select.POLLIN, self._on_connection)

    def _on_connection(self) -> None:
        listener = socket.socket(fileno=self._listener)
        try:
            accepted = listener.accept()[0].detach()
        except (BlockingIOError, ConnectionAbortedError):
            return
        finally:
            listener.detach()
        channel, self._next = self._next, self._next + 1
        self._connections[channel] = _Connection(channel, accepted, self._reactor, self._outbox)
        self._outbox.put(channel, b"dial")
        if len(self._connections) == MAX_CONNECTIONS:
            self._reactor.forget(self._listener)

    def feed(self, channel: int, pages: Pages, done: Callable[[], None], is_last: bool) -> None:
        """Bytes for the program. `done` is called when it has taken them, or never will."""
        connection = self._connections.get(channel)
        if connection is None:
            done()
        else:
            connection.feeder.put(pages, done, is_last=is_last)

    def acknowledge(self, channel: int, size: int) -> None:
        """The driver has read chunks of that weight."""
        if channel in self._connections:
            self._connections[channel].acknowledge(size)

    def hang_up(self, channel: int, *, is_whole: bool) -> None:
        """The driver is done with a connection. A reset says that what came is not all."""
        connection = self._connections.pop(channel, None)
        if connection is not None:
            connection.close(is_whole=is_whole)
            self._listen()


class _Connection:
    def __init__(self, channel: int, fd: int, reactor: Reactor, outbox: Outbox) -> None:
        self._channel, self._fd, self._reactor, self._outbox = channel, fd, reactor, outbox
        self._unread = 0
        self._has_ended = False
        self._is_reset = False
        # A descriptor of its own: the reactor keeps one handler for each.
        self.feeder = Feeder(reactor, os.dup(fd), end=self._end_writing)
        self._watch()

    def _watch(self) -> None:
        self._reactor.watch(self._fd, select.POLLIN, self._on_data)

    def _on_data(self) -> None:
        chunk = Pages(CHUNK)
        try:
            got = chunk.read_from(self._fd)
            word = b"end"
        except OSError:  # it was reset
            got, word = 0, b"gone"
        chunk.cut()
        if got is None:
            return
        if got == 0:
            self._has_ended = True
            self._reactor.forget(self._fd)
            self._outbox.put(self._channel, word)
            return
        self._unread += weight(got)
        self._outbox.put(self._channel, b"data", chunk)
        if self._unread >= WINDOW:
            self._reactor.forget(self._fd)

    def acknowledge(self, size: int) -> None:
        self._unread -= size
        if self._unread < WINDOW and not self._has_ended:
            self._watch()

    def _end_writing(self) -> None:
        if self._is_reset:
            return
        sock = socket.socket(fileno=self._fd)
        try:
            sock.shutdown(socket.SHUT_WR)
        except OSError:  # the program has closed it
            return
        finally:
            sock.detach()

    def close(self, *, is_whole: bool) -> None:
        self._reactor.forget(self._fd)
        if not is_whole:
            self._is_reset = True
            sock = socket.socket(fileno=self._fd)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.detach()
        self.feeder.close()
        os.close(self._fd)
