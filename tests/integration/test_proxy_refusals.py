"""What the proxy refuses: no byte of it reaches a host, and the program is told why."""

import asyncio
import ssl
from functools import partial

import pytest
from proxy_box import GET, OK, Host, a_door, a_host, answers_ok, swallows, until
from support import run_async

from palaestra.sandboxes._proxy.addresses import Upstream, dial_public


def test_a_host_that_is_not_on_the_list_is_never_dialled_and_the_cure_is_told() -> None:
    async def part() -> None:
        async with a_host(answers_ok) as host, a_door("b.example", dial=host.dial) as door:
            for asked, goal in (
                (GET, "a.example:80"),
                (b"CONNECT a.example:22 HTTP/1.1\r\n\r\n", "a.example:22"),
            ):
                head, _, body = (await door.ask(asked)).decode().partition("\r\n\r\n")
                assert head.startswith("HTTP/1.1 403 Forbidden: ") and "Connection: close" in head
                assert body == f"{goal} is not allowed; add '{goal}' to SandboxSpec.network\n"
            assert host.num_connections == 0
            assert [(found.host, found.port, found.status) for found in door.refusals] == [
                ("a.example", 80, 403),
                ("a.example", 22, 403),
            ]

    run_async(part())


@pytest.mark.parametrize("name", ["b.example", "a.example.evil.net", None])
def test_tls_for_another_name_than_the_tunnels_is_refused_before_a_byte_arrives(
    name: str | None,
) -> None:
    async def part() -> None:
        context = ssl.create_default_context()
        context.check_hostname = False
        async with (
            a_host(swallows) as host,
            a_door("a.example", "b.example", dial=host.dial) as door,
            door.knock() as client,
        ):
            await client.connect("a.example:443")
            with pytest.raises(ssl.SSLError, match="ALERT_ACCESS_DENIED"):
                await client.writer.start_tls(context, server_hostname=name)
            await until(lambda: bool(door.refusals))
            assert f"CONNECT asks for a.example:443, but TLS for {name!r}" in door.refusals[0].reason
            await until(lambda: door.num_open == 0)
            assert host.received == b""

    run_async(part())


@pytest.mark.parametrize(
    ("goal", "inside", "status"),
    [
        ("a.example:443", b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n", 403),
        ("a.example:443", b"SSH-2.0-OpenSSH_9.2\r\n", 403),
        ("a.example:80", b"GET / HTTP/1.1\r\nHost: b.example\r\n\r\n", 403),
        ("a.example:80", b"GET http://b.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n", 400),
        ("a.example:80", b"GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n", 400),
        ("a.example:80", b"CONNECT b.example:443 HTTP/1.1\r\nHost: a.example\r\n\r\n", 400),
        ("a.example:80", b"GET / HTTP/1.1\r\n\r\n", 400),
        ("a.example:80", b"SSH-2.0-OpenSSH_9.2\r\n\r\n", 400),
    ],
)
def test_what_else_comes_in_a_tunnel_is_refused_before_a_byte_arrives(
    goal: str, inside: bytes, status: int
) -> None:
    async def part() -> None:
        async with (
            a_host(swallows) as host,
            a_door("a.example", "b.example", dial=host.dial) as door,
            door.knock() as client,
        ):
            await client.connect(goal)
            client.writer.write(inside)
            assert (await client.reader.read()).startswith(b"HTTP/1.1 %d " % status)
            client.writer.close()
            await until(lambda: door.num_open == 0)
            assert host.received == b""

    run_async(part())


@pytest.mark.parametrize(
    ("lines", "body", "received_body"),
    [
        (b"", b"", b""),
        (b"Content-Length: 5\r\n", b"12345", b"12345"),
        (b"Transfer-Encoding: chunked\r\n", b"5\r\n12345\r\n0\r\n\r\n", b"5\r\n12345\r\n0\r\n\r\n"),
    ],
)
def test_a_second_request_on_the_connection_never_reaches_the_host(
    lines: bytes, body: bytes, received_body: bytes
) -> None:
    second = b"GET http://a.example/second HTTP/1.1\r\nHost: b.example\r\n\r\n"

    async def listens_on(host: Host, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await host.read(reader, b"Connection: close\r\n\r\n" + received_body)
        writer.write(OK[:40])
        await host.read(reader)
        writer.write(OK[40:])

    async def part() -> None:
        first = GET.replace(b"\r\n\r\n", b"\r\n" + lines + b"\r\n") + body
        async with a_host(listens_on) as host, a_door("a.example", dial=host.dial) as door:
            async with door.knock(first + second) as client:
                assert await client.reader.readexactly(40) == OK[:40]
                client.writer.write(second * 1000)
                client.writer.write_eof()
                assert await client.reader.read() == OK[40:]
            assert bytes(host.received).endswith(b"Connection: close\r\n\r\n" + received_body)
            assert host.num_connections == 1

    run_async(part())


@pytest.mark.parametrize(
    "request_bytes",
    [
        GET.replace(b"\r\n\r\n", b"\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"),
        GET.replace(b"Host: a.example", b"Host: b.example"),
        GET.replace(b"Host: a.example", b"Host: a.example\r\nHost: a.example"),
        GET.replace(b"\r\n", b"\n"),
        b"\x16\x03\x01",
        b"x" * 100_000,
    ],
)
def test_a_malformed_request_reaches_no_host_and_is_answered(request_bytes: bytes) -> None:
    async def part() -> None:
        async with a_host(answers_ok) as host, a_door("a.example", "b.example", dial=host.dial) as door:
            async with door.knock(request_bytes) as client:
                client.writer.write_eof()
                answer = await client.reader.read()
            assert answer.startswith((b"HTTP/1.1 400 Bad Request: ", b"HTTP/1.1 403 Forbidden: "))
            assert (host.num_connections, len(door.refusals)) == (0, 1)

    run_async(part())


def test_a_chunk_that_lies_ends_the_request_and_is_answered() -> None:
    async def part() -> None:
        async with (
            a_host(swallows) as host,
            a_door("a.example", dial=host.dial) as door,
        ):
            lines = b"\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n123456\r\n0\r\n\r\n"
            answer = await door.ask(GET.replace(b"\r\n\r\n", lines))
            assert answer.startswith(b"HTTP/1.1 400 ")
            assert b"0\r\n\r\n" not in host.received

    run_async(part())


@pytest.mark.parametrize(
    "address",
    ["169.254.169.254", "127.0.0.1", "10.0.0.1", "::1", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe"],
)
def test_an_allowed_name_that_stands_for_an_address_inside_is_refused(address: str) -> None:
    async def part() -> None:
        connected: list[str] = []

        async def resolve(host: str, port: int) -> list[str]:
            return [address]

        async def connect(host: str, port: int) -> Upstream:
            connected.append(host)
            raise ConnectionRefusedError

        dial = partial(dial_public, resolve=resolve, connect=connect)
        async with a_door("metadata.example", dial=dial) as door:
            asked = b"GET http://metadata.example/latest HTTP/1.1\r\nHost: metadata.example\r\n\r\n"
            answer = await door.ask(asked)
            assert answer.startswith(b"HTTP/1.1 403 ")
            assert f"metadata.example stands for {address}, which is not a public".encode() in answer
            assert (await door.ask(b"CONNECT metadata.example:443 HTTP/1.1\r\n\r\n")).startswith(
                b"HTTP/1.1 403 "
            )
            assert connected == []

    run_async(part())


def test_a_name_that_changes_its_address_is_connected_to_where_it_was_checked() -> None:
    async def part() -> None:
        answers = [["1.1.1.1"], ["127.0.0.1"]]
        connected: list[str] = []
        async with a_host(answers_ok) as host:

            async def resolve(name: str, port: int) -> list[str]:
                return answers.pop(0)

            async def connect(address: str, port: int) -> Upstream:
                connected.append(address)
                return await host.dial(address, port)

            dial = partial(dial_public, resolve=resolve, connect=connect)
            async with a_door("a.example", dial=dial) as door:
                assert await door.ask(GET) == OK
                assert (await door.ask(GET)).startswith(b"HTTP/1.1 403 ")
                assert (connected, host.num_connections) == (["1.1.1.1"], 1)

    run_async(part())
