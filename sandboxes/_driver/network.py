"""Connections that programs of a sandbox open to its relay, handed to the proxy that decides.

frames <── _Bridge ──> socket pair <──> proxy.serve         one for each connection
"""

import asyncio
import socket
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from .._inside.wire import weight
from ..errors import SandboxError
from .parts import Sender, feed

if TYPE_CHECKING:
    from ..proxy import Refusal

_READ = 1 << 16

Serve = Callable[[asyncio.StreamReader, "Answerer"], Awaitable[None]]
"""Serves one connection to its end. What was not closed by then is reset."""


class Wire(Sender, Protocol):
    """What a gate needs of its sandbox."""

    def tell(self, head: dict[str, Any]) -> None: ...


class Gate:
    """All connections of one sandbox."""

    def __init__(self, wire: Wire, serve: Serve) -> None:
        self._wire, self._serve = wire, serve
        self._bridges: dict[int, _Bridge] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def take(self, channel: int, words: list[bytes], payload: bytes) -> None:
        """One frame of the relay."""
        if words[0] == b"dial":
            bridge = self._bridges[channel] = _Bridge(channel, self._wire)
            task = asyncio.get_running_loop().create_task(self._see_through(bridge))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif channel in self._bridges:
            self._bridges[channel].take(words[0], payload)

    async def _see_through(self, bridge: "_Bridge") -> None:
        is_whole = False
        try:
            is_whole = await bridge.carry(self._serve)
        except (OSError, SandboxError):  # one side is gone: nobody is left to tell
            is_whole = False
        finally:
            del self._bridges[bridge.channel]
            self._wire.tell({"op": "hang_up", "job": bridge.channel, "is_whole": is_whole})

    async def close(self) -> None:
        """End every connection."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class Answerer:
    """The way back to the program."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self.is_closed = False

    def write(self, data: bytes, /) -> None:
        self._writer.write(data)

    async def drain(self) -> None:
        await self._writer.drain()

    def close(self) -> None:
        """All is written; the program may go on sending."""
        self.is_closed = True
        self._writer.write_eof()


class _Bridge:
    """One connection. The sockets between hold back whoever is too fast."""

    def __init__(self, channel: int, wire: Wire) -> None:
        self.channel = channel
        self._wire = wire
        self._waiting: deque[tuple[bytes, bytes]] = deque()
        self._news = asyncio.Event()

    def take(self, word: bytes, data: bytes) -> None:
        """What came from the program: "data", its "end", or that it is "gone"."""
        self._waiting.append((word, data))
        self._news.set()

    async def carry(self, serve: Serve) -> bool:
        """Whether all of the answer was passed on."""
        near, far = socket.socketpair()
        near.setblocking(False)
        with near:
            try:
                reader, writer = await asyncio.open_connection(sock=far)
            except BaseException:
                far.close()
                raise
            answerer = Answerer(writer)
            pumps = [asyncio.ensure_future(self._bring_in(near)), asyncio.ensure_future(self._send_out(near))]
            try:
                await serve(reader, answerer)
                if answerer.is_closed:
                    await pumps[1]
            finally:
                writer.close()  # first: the wait for the pumps may be cancelled
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        return answerer.is_closed

    async def _bring_in(self, near: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            while not self._waiting:
                self._news.clear()
                await self._news.wait()
            word, data = self._waiting.popleft()
            if word == b"gone":
                # Not closed: the loop watches it, and its number would be the next socket's.
                near.shutdown(socket.SHUT_RDWR)
                return
            if word == b"end":
                near.shutdown(socket.SHUT_WR)
                continue
            await loop.sock_sendall(near, data)
            self._wire.tell({"op": "ack", "job": self.channel, "size": weight(len(data))})

    async def _send_out(self, near: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while data := await loop.sock_recv(near, _READ):
            await feed(self._wire, self.channel, data, is_last=False)
        await feed(self._wire, self.channel, b"", is_last=True)


def server_for(network: str | tuple[str, ...], on_refusal: "Callable[[Refusal], None]") -> Serve:
    """What decides for `SandboxSpec.network`."""
    from ..allow import Allow  # loaded with the first sandbox that needs it
    from ..proxy import serve

    policy = Allow.everything() if isinstance(network, str) else Allow.parse(network)
    return partial(serve, policy, on_refusal=on_refusal)
