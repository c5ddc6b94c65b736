"""What passes the proxy between real clients and real servers, byte by byte."""

import asyncio
import shutil
import urllib.request

import httpx
import pytest
from proxy_box import GET, OK, Certificate, Host, a_door, a_host, answers_ok, make_certificate, until
from support import run_async
from tls_hello import client_hello, in_records

MEGABYTE = bytes(range(256)) * 4096


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


async def echoes(host: Host, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A web server that answers with the body, whose length it is told."""
    head = await reader.readuntil(b"\r\n\r\n")
    (line,) = [line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
    body = await reader.readexactly(int(line.split(b":")[1]))
    host.received += head + body
    writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n" + line + b"\r\n\r\n" + body)
    await writer.drain()


def test_a_megabyte_goes_through_http_and_back() -> None:
    async def part() -> None:
        async with a_host(echoes) as host, a_door(f"127.0.0.1:{host.port}") as door:
            async with httpx.AsyncClient(proxy=door.url) as client:
                answer = await client.post(f"http://127.0.0.1:{host.port}/up?x=1", content=MEGABYTE)
            assert (answer.status_code, answer.content) == (200, MEGABYTE)
            head, _, body = bytes(host.received).partition(b"\r\n\r\n")
            assert head.startswith(b"POST /up?x=1 HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n" % host.port)
            assert head.endswith(b"Connection: close") and body == MEGABYTE
            assert door.refusals == []

    run_async(part())


@pytest.mark.parametrize("name", ["a.example", "127.0.0.1"])
def test_a_megabyte_goes_through_tls_and_back(certificate: Certificate, name: str) -> None:
    async def part() -> None:
        async with (
            a_host(echoes, certificate.server()) as host,
            a_door(f"{name}:8443", dial=host.dial) as door,
            httpx.AsyncClient(proxy=door.url, verify=certificate.client()) as client,
        ):
            answer = await client.post(f"https://{name}:8443/", content=MEGABYTE)
            assert (answer.status_code, answer.content) == (200, MEGABYTE)
            assert door.refusals == []

    run_async(part())


def test_pythons_own_client_gets_through_and_is_told_why_not(certificate: Certificate) -> None:
    def fetch(proxy: str, url: str) -> bytes:
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({"http": proxy, "https": proxy}),
            urllib.request.HTTPSHandler(context=certificate.client()),
        )
        with opener.open(url, timeout=10) as answer:
            content: bytes = answer.read()
        return content

    async def part() -> None:
        async with (
            a_host(answers_ok, certificate.server()) as host,
            a_door("a.example", dial=host.dial) as door,
        ):
            assert await asyncio.to_thread(fetch, door.url, "https://a.example/") == b"hi"
            with pytest.raises(OSError, match=r"403 .*b\.example:443 is not allowed; add 'b"):
                await asyncio.to_thread(fetch, door.url, "https://b.example/")

    run_async(part())


def test_a_client_that_ends_first_still_gets_the_answer() -> None:
    async def answers_at_the_end(
        host: Host, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await host.read(reader)
        writer.write(MEGABYTE)
        await writer.drain()

    async def part() -> None:
        hello = in_records(client_hello("a.example"), 100)
        async with (
            a_host(answers_at_the_end) as host,
            a_door("a.example", dial=host.dial) as door,
            door.knock() as client,
        ):
            await client.connect("a.example:443")
            client.writer.write(hello + MEGABYTE)
            client.writer.write_eof()
            assert await client.reader.read() == MEGABYTE
            assert bytes(host.received) == hello + MEGABYTE

    run_async(part())


def test_a_host_that_ends_first_still_gets_the_rest() -> None:
    async def ends_first(host: Host, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(MEGABYTE)
        writer.write_eof()
        await host.read(reader)

    async def part() -> None:
        hello = client_hello("a.example")
        async with (
            a_host(ends_first) as host,
            a_door("a.example", dial=host.dial) as door,
            door.knock() as client,
        ):
            await client.connect("a.example:443")
            client.writer.write(hello)
            assert await client.reader.read() == MEGABYTE
            client.writer.write(MEGABYTE)
            client.writer.write_eof()
            await until(lambda: len(host.received) == len(hello + MEGABYTE))
            assert bytes(host.received) == hello + MEGABYTE

    run_async(part())


def test_plain_http_for_the_tunnels_host_passes_on_port_80() -> None:
    async def part() -> None:
        async with (
            a_host(answers_ok) as host,
            a_door("a.example", dial=host.dial) as door,
            door.knock() as client,
        ):
            await client.connect("a.example:80")
            client.writer.write(b"GET /x HTTP/1.1\r\nHost: a.example\r\n\r\n" + GET)
            assert await client.reader.read() == OK
            assert bytes(host.received) == (
                b"GET /x HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n"
            )

    run_async(part())


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl_gets_through(certificate: Certificate) -> None:
    async def part() -> None:
        async with (
            a_host(answers_ok, certificate.server()) as host,
            a_door("a.example", dial=host.dial) as door,
        ):
            command = ["curl", "--silent", "--proxy", door.url, "--cacert", str(certificate.path)]
            process = await asyncio.create_subprocess_exec(
                *command, "https://a.example/", stdout=asyncio.subprocess.PIPE
            )
            assert (await process.communicate())[0] == b"hi"

    run_async(part())
