"""What a program reaches where the network policy is a list of hosts: half of row 20."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from ..errors import SandboxUnavailable
from .row import Broken, expect, held
from .target import Target

THROUGH_THE_PROXY = """
import os, socket, ssl, sys
from urllib.parse import urlsplit
ours, other = sys.argv[1:3]
port, other_port = ours.rpartition(":")[2], other.rpartition(":")[2]
proxy = urlsplit(os.environ["HTTPS_PROXY"])
def talk(*parts):
    answer = b""
    with socket.create_connection((proxy.hostname, proxy.port), 10) as s:
        for part in parts:
            s.sendall(part)
            if part is not parts[-1]: answer += s.recv(4096)
        try:
            while data := s.recv(4096): answer += data
        except OSError: pass
    return answer
def get(url, host): return f"GET {url} HTTP/1.1\\r\\nHost: {host}\\r\\n\\r\\n".encode()
def connect(host): return f"CONNECT {host} HTTP/1.1\\r\\nHost: {host}\\r\\n\\r\\n".encode()
def hello(name):
    sent = ssl.MemoryBIO()
    try: ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), sent, server_hostname=name).do_handshake()
    except ssl.SSLWantReadError: pass
    return sent.read()
good = talk(get(f"http://{ours}/allowed", ours))
if not (good.startswith(b"HTTP/1.1 200") and good.endswith(b"inside")):
    print("the host of the list:", good[:200])
for name, parts in {
    "another port": [get(f"http://{other}/out", other)],
    "another Host": [get(f"http://{ours}/out", other)],
    "two Hosts": [get(f"http://{ours}/out", f"{ours}\\r\\nHost: {other}")],
    "a second request": [get(f"http://{ours}/allowed", ours) + get(f"http://{other}/out", other)],
    "another CONNECT": [connect(other), get("/out", other)],
    "no TLS inside": [connect(ours), get("/out", ours)],
    "another name in TLS": [connect(ours), hello("out.example")],
    "metadata": [get("http://169.254.169.254/out", "169.254.169.254")],
    "a hexadecimal address": [get(f"http://0x7f000001:{port}/out", f"0x7f000001:{port}")],
    "a short address": [get(f"http://127.1:{other_port}/out", f"127.1:{other_port}")],
    "a mapped address": [get(f"http://[::ffff:127.0.0.1]:{port}/out", f"[::ffff:127.0.0.1]:{port}")],
    "a name for loopback": [get(f"http://localhost:{port}/out", f"localhost:{port}")],
    "a user in the URL": [get(f"http://{ours}@{other}/out", ours)],
    "noise": [b"\\0\\1\\2 out\\r\\n\\r\\n"],
}.items():
    answer = talk(*parts)
    if b"outside" in answer: print("reached by", name)
print("done")
"""


class _Server:
    """Answers every request with its word, and keeps what it was asked."""

    def __init__(self, word: bytes) -> None:
        self._word = word
        self.address = ""
        self.heard = b""

    async def meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(10):
                self.heard += await reader.read(4096)
            head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(self._word)
            writer.write(head + self._word)
            await writer.drain()
        except OSError:  # of both kinds: whoever came said nothing, or has left
            return
        finally:
            writer.close()


@asynccontextmanager
async def _server(word: bytes) -> AsyncGenerator[_Server, None]:
    ours = _Server(word)
    async with await asyncio.start_server(ours.meet, "127.0.0.1", 0) as server:
        ours.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield ours


async def only_listed_hosts(target: Target) -> str:
    """A list of one host: that one is reached, and nobody else, whatever the proxy is told."""
    async with target.box() as box:
        has_lists = "hosts" in box.capabilities().networks
    async with _server(b"inside") as ours, _server(b"outside") as other:
        if not has_lists:
            return await _lists_are_refused(target, ours.address)
        async with target.box(network=(ours.address,)) as box:
            program = ["python3", "-c", THROUGH_THE_PROXY, ours.address, other.address]
            held(await box.run(program, timeout_s=60))
        expect(not other.heard, f"a host that is not on the list heard {other.heard[:200]!r}")
        expect(b"/out" not in ours.heard, f"the host of the list heard {ours.heard[:400]!r}")
    return "a list lets its host through, by no other name, port, Host or server name"


async def _lists_are_refused(target: Target, address: str) -> str:
    try:
        async with target.box(network=(address,)):
            raise Broken("a tier that has no allow-list opened a sandbox with one")
    except SandboxUnavailable:
        return "an allow-list is refused"
