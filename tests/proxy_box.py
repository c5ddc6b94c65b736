"""What the tests of the proxy share: hosts on loopback, and a port that stands for the one in a sandbox."""

import asyncio
import shutil
import socket
import ssl
import struct
import subprocess
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from palaestra.sandboxes.allow import Allow
from palaestra.sandboxes.proxy import Limits, Refusal, serve

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
GET = b"GET http://a.example/x HTTP/1.1\r\nHost: a.example\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi"
SHORT = Limits(head_s=0.3, dial_s=0.3, idle_s=0.3, linger_s=0.3)


@dataclass(frozen=True, kw_only=True, slots=True)
class Certificate:
    """Self-signed, for a.example, b.example and 127.0.0.1."""

    path: Path
    """The certificate with its key."""

    def server(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.path)
        return context

    def client(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.path))


def make_certificate(folder: Path) -> Certificate:
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command, to make a certificate")
    path = folder / "certificate.pem"
    names = "subjectAltName=DNS:a.example,DNS:b.example,IP:127.0.0.1"
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", str(path)]
    usage = ["-days", "2", "-subj", "/CN=a.example", "-addext", names]
    made = subprocess.run(["openssl", "req", "-x509", *key, *usage], capture_output=True, check=True)
    path.write_bytes(path.read_bytes() + made.stdout)
    return Certificate(path=path)


class Host:
    """A server on loopback that keeps every byte that it gets."""

    def __init__(self) -> None:
        self.port = 0
        self.num_connections = 0
        self.received = bytearray()

    async def dial(self, host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Every name and port is this one."""
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def read(self, reader: asyncio.StreamReader, until: bytes = b"") -> None:
        """To the end, or to where `until` is among what was received."""
        while not until or until not in self.received:
            data = await reader.read(1 << 16)
            if not data:
                return
            self.received += data


@asynccontextmanager
async def a_host(
    handler: Callable[[Host, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    context: ssl.SSLContext | None = None,
) -> AsyncGenerator[Host, None]:
    host = Host()
    tasks: set[asyncio.Task[Any]] = set()

    async def met(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())  # type: ignore[arg-type]  # a handler runs in a task
        host.num_connections += 1
        try:
            await handler(host, reader, writer)
        finally:
            writer.close()

    async with await asyncio.start_server(met, "127.0.0.1", 0, ssl=context) as server:
        host.port = server.sockets[0].getsockname()[1]
        yield host
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def answers_ok(host: Host, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """As a simple web server does: one request without a body, one answer."""
    await host.read(reader, b"\r\n\r\n")
    writer.write(OK)
    await writer.drain()


async def swallows(host: Host, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Takes everything and says nothing."""
    await host.read(reader)


async def drip(writer: asyncio.StreamWriter, data: bytes) -> None:
    """A byte now and then."""
    for at in range(len(data)):
        writer.write(data[at : at + 1])
        await asyncio.sleep(0.02)


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection so that nobody takes it for a good end."""
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()


class TcpReply:
    """The way back over a TCP socket: `close` is a half-close."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self.is_closed = False

    def write(self, data: bytes) -> None:
        self._writer.write(data)

    async def drain(self) -> None:
        await self._writer.drain()

    def close(self) -> None:
        self.is_closed = True
        self._writer.write_eof()


@dataclass(kw_only=True)
class Door:
    """Where the program finds the proxy, and what came of it."""

    port: int = 0
    refusals: list[Refusal] = field(default_factory=list[Refusal])
    num_open: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @asynccontextmanager
    async def knock(self, sent: bytes = b"") -> AsyncGenerator["Client", None]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(sent)
            yield Client(reader=reader, writer=writer)
        finally:
            writer.close()

    async def ask(self, sent: bytes) -> bytes:
        """Everything that comes back."""
        async with self.knock(sent) as client:
            return await client.reader.read()


@dataclass(frozen=True, kw_only=True, slots=True)
class Client:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def connect(self, goal: str) -> None:
        """Have a tunnel opened."""
        self.writer.write(f"CONNECT {goal} HTTP/1.1\r\nHost: {goal}\r\n\r\n".encode())
        assert (await self.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")


@asynccontextmanager
async def a_door(*entries: str, limits: Limits | None = None, **options: Any) -> AsyncGenerator[Door, None]:
    """A port with the proxy behind it. When it closes, no task of the proxy may be left."""
    before = asyncio.all_tasks()
    door, policy = Door(), Allow.parse(entries)

    async def met(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reply = TcpReply(writer)
        door.num_open += 1
        await serve(policy, reader, reply, on_refusal=door.refusals.append, limits=limits, **options)
        door.num_open -= 1
        if reply.is_closed:
            writer.close()
        else:
            reset(writer)

    async with await asyncio.start_server(met, "127.0.0.1", 0) as server:
        door.port = server.sockets[0].getsockname()[1]
        yield door
        await until(lambda: door.num_open == 0)
    await until(lambda: asyncio.all_tasks() <= before | {asyncio.current_task()})


async def until(condition: Callable[[], bool], within_s: float = 10.0) -> None:
    """Waits for a condition. Fails when it takes longer."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not become true"
        await asyncio.sleep(0.01)


async def settled(count: Callable[[], int], for_s: float = 0.5) -> int:
    """A number, once it has not changed for some time: buffers of the kernel fill up unseen."""
    seen, since = count(), time.monotonic()
    while time.monotonic() - since < for_s:
        await asyncio.sleep(0.01)
        if count() != seen:
            seen, since = count(), time.monotonic()
    return seen
