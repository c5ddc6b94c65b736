"""Connections that programs of a sandbox open to its relay, handed to the proxy that decides.

frames <── _Bridge ──> socket pair <──> proxy.serve         one for each connection
"""

import asyncio
import socket
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Protocol

_READ = 1 << 16

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
"""Serves one connection to its end."""


class Wire(Protocol):
    """What a gate needs of its sandbox."""

    async def ask(self, head: dict[str, Any], *payload: bytes) -> bytes: ...
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
            self._bridges[channel].take(payload if words[0] == b"data" else b"")

    async def _see_through(self, bridge: "_Bridge") -> None:
        try:
            await bridge.carry(self._serve)
        finally:
            del self._bridges[bridge.channel]
            self._wire.tell({"op": "cancel", "job": bridge.channel})

    async def close(self) -> None:
        """End every connection."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class _Bridge:
    """One connection. The sockets between hold back whoever is too fast."""

    def __init__(self, channel: int, wire: Wire) -> None:
        self.channel = channel
        self._wire = wire
        self._waiting: deque[bytes] = deque()
        self._news = asyncio.Event()

    def take(self, data: bytes) -> None:
        """What the program sent; nothing at its end."""
        self._waiting.append(data)
        self._news.set()

    async def carry(self, serve: Serve) -> None:
        near, far = socket.socketpair()
        near.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=far)
        inward = asyncio.ensure_future(self._bring_in(near))
        outward = asyncio.ensure_future(self._send_out(near))
        try:
            await serve(reader, writer)
            writer.close()
            await outward
        finally:
            for task in (inward, outward):
                task.cancel()
            await asyncio.gather(inward, outward, return_exceptions=True)
            writer.close()
            near.close()

    async def _bring_in(self, near: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            while not self._waiting:
                self._news.clear()
                await self._news.wait()
            data = self._waiting.popleft()
            if not data:
                near.shutdown(socket.SHUT_WR)
                return
            await loop.sock_sendall(near, data)
            self._wire.tell({"op": "ack", "job": self.channel, "size": len(data)})

    async def _send_out(self, near: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while data := await loop.sock_recv(near, _READ):
            await self._wire.ask({"op": "feed", "job": self.channel, "is_last": False}, data)
        await self._wire.ask({"op": "feed", "job": self.channel, "is_last": True})


def server_for(network: str | tuple[str, ...]) -> Serve:
    """What decides for `SandboxSpec.network`. Raises `ValueError` for an entry that names no host."""
    from ..allow import Allow  # loaded with the first sandbox that needs it
    from ..proxy import serve

    policy = Allow.everything() if isinstance(network, str) else Allow.parse(network)
    return partial(serve, policy)
