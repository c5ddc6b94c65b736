"""Programs in a sandbox with a network policy: whom they reach, and whom not."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from embedded_box import need
from support import require, run_async

from palaestra.sandboxes import Sandbox, SandboxSpec, SandboxUnavailable, open_sandbox
from palaestra.sandboxes._driver import client
from palaestra.sandboxes._driver.client import BoxClient

TIERS = [pytest.param("namespaces"), pytest.param("docker", marks=pytest.mark.docker)]
# The servers of these tests are on loopback, which programs usually reach without the proxy.
THROUGH = {"NO_PROXY": "", "no_proxy": ""}
FETCH = """
import sys, urllib.error, urllib.request
try:
    with urllib.request.urlopen(sys.argv[1], timeout=20) as answer: print(answer.status, len(answer.read()))
except urllib.error.HTTPError as error: print(error.code, error.read().decode())
"""


def play(
    tier: str, part: Callable[[Sandbox, int], Awaitable[None]], *, allow: bool = True, size: int = 3_000_000
) -> None:
    require("docker") if tier == "docker" else need(tier)

    async def whole() -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n"
            writer.write(head.encode() + bytes(size))
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        hosts = (f"127.0.0.1:{port}",) if allow else ("example.org",)
        try:
            async with open_sandbox(SandboxSpec(backend=tier, network=hosts)) as box:
                await part(box, port)
        finally:
            server.close()

    run_async(whole())


@pytest.mark.parametrize("tier", TIERS)
def test_a_program_reaches_a_host_of_the_list_and_all_of_its_answer_comes(tier: str) -> None:
    async def part(box: Sandbox, port: int) -> None:
        argv = ["python3", "-c", FETCH, f"http://127.0.0.1:{port}/"]
        results = await asyncio.gather(*(box.run(argv, env=THROUGH, timeout_s=60) for _ in range(6)))
        assert {result.stdout for result in results} == {b"200 3000000\n"}, results[0].stderr
        assert isinstance(box, BoxClient) and not box.refusals

    play(tier, part)


@pytest.mark.parametrize("tier", TIERS)
def test_a_program_reaches_no_other_host_and_no_other_way(tier: str) -> None:
    async def part(box: Sandbox, port: int) -> None:
        through = await box.run(["python3", "-c", FETCH, f"http://127.0.0.1:{port}/"], env=THROUGH)
        assert through.stdout.startswith(b"403 ") and b"SandboxSpec.network" in through.stdout
        directly = await box.run(["python3", "-c", FETCH, f"http://127.0.0.1:{port}/"])
        assert b"Connection refused" in directly.stderr
        assert isinstance(box, BoxClient)
        assert [(refusal.host, refusal.port, refusal.status) for refusal in box.refusals] == [
            ("127.0.0.1", port, 403)
        ]

    play(tier, part, allow=False)


def test_open_means_public_hosts_and_not_the_machine_itself() -> None:
    need("namespaces")

    async def whole() -> None:
        async with open_sandbox(SandboxSpec(backend="namespaces", network="open")) as box:
            result = await box.run(["python3", "-c", FETCH, "http://127.0.0.1:1/"], env=THROUGH)
            assert result.stdout.startswith(b"403 "), result

    run_async(whole())


def test_a_tier_without_the_proxy_refuses_a_network() -> None:
    need("landlock")

    async def whole() -> None:
        async with open_sandbox(SandboxSpec(backend="landlock", network=("example.org",))):
            raise AssertionError

    with pytest.raises(SandboxUnavailable, match="network='none' only"):
        run_async(whole())


@pytest.mark.parametrize("tier", TIERS)
def test_a_closed_sandbox_ends_the_connections_of_its_programs(tier: str) -> None:
    async def part(box: Sandbox, port: int) -> None:
        code = "import socket, time; kept = socket.create_connection(('127.0.0.1', 3128))\n"
        code += "print(1, flush=True); time.sleep(60)"
        job = await box.start(["python3", "-c", code])
        async for chunk in job.chunks():
            assert chunk.data == b"1\n"
            break
        await box.close()
        names = [repr(task.get_coro()) for task in asyncio.all_tasks()]
        assert not [name for name in names if "Gate" in name or "Bridge" in name], names

    play(tier, part)


SLOW = """
import socket, sys, time
with socket.socket() as proxy:
    proxy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 12)
    proxy.connect(("127.0.0.1", 3128))
    proxy.sendall(f"GET {sys.argv[1]} HTTP/1.1\\r\\nHost: {sys.argv[1].split('/')[2]}\\r\\n\\r\\n".encode())
    time.sleep(1.5)
    size = 0
    while part := proxy.recv(1 << 16): size += len(part)
print(size > 3_000_000)
"""


@pytest.mark.parametrize("tier", TIERS)
def test_a_program_that_is_slow_to_read_its_answer_is_waited_for(
    tier: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def part(box: Sandbox, port: int) -> None:
        monkeypatch.setattr(client, "GRACE_S", 0.5)  # what a call may take that no program holds up
        result = await box.run(["python3", "-c", SLOW, f"http://127.0.0.1:{port}/"])
        assert (result.stdout, result.stderr) == (b"True\n", b"")

    play(tier, part)
