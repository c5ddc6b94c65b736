"""Hosts that fail behind the proxy: what the program is told, and no half answer that looks whole."""

import asyncio
import time
from collections.abc import Callable

import pytest
from proxy_box import GET, OK, SHORT, Host, a_door, a_host, answers_ok, drip, reset, swallows, until
from support import run_async
from tls_hello import client_hello

from palaestra.sandboxes._proxy.addresses import Upstream


async def fails(host: str, port: int) -> Upstream:
    raise ConnectionRefusedError(111, "Connection refused")


async def hangs(host: str, port: int) -> Upstream:
    await asyncio.Event().wait()
    raise AssertionError


@pytest.mark.parametrize(("dial", "status"), [(fails, 502), (hangs, 504)])
@pytest.mark.parametrize("asked", [GET, b"CONNECT a.example:443 HTTP/1.1\r\n\r\n"])
def test_a_host_that_is_not_there_is_told_from_one_that_is_refused(
    dial: Callable[[str, int], object], status: int, asked: bytes
) -> None:
    async def part() -> None:
        async with a_door("a.example", dial=dial, limits=SHORT) as door:
            assert (await door.ask(asked)).startswith(b"HTTP/1.1 %d " % status)
            assert [refusal.status for refusal in door.refusals] == [status]

    run_async(part())


def test_a_host_that_never_answers_is_a_gateway_timeout() -> None:
    async def part() -> None:
        async with a_host(swallows) as host, a_door("a.example", dial=host.dial, limits=SHORT) as door:
            assert (await door.ask(GET)).startswith(b"HTTP/1.1 504 ")

    run_async(part())


@pytest.mark.parametrize("end", [reset, asyncio.StreamWriter.close])
def test_a_host_that_ends_without_an_answer_is_a_bad_gateway(
    end: Callable[[asyncio.StreamWriter], None],
) -> None:
    async def ends(host: Host, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await host.read(reader, b"\r\n\r\n")
        end(writer)

    async def part() -> None:
        async with a_host(ends) as host, a_door("a.example", dial=host.dial) as door:
            assert (await door.ask(GET)).startswith(b"HTTP/1.1 502 ")

    run_async(part())


def test_a_host_that_breaks_off_in_the_middle_of_a_body_is_a_bad_gateway() -> None:
    async def part() -> None:
        has_waited = asyncio.Event()

        async def stares(host: Host, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await has_waited.wait()
            reset(writer)

        asked = GET.replace(b"\r\n\r\n", b"\r\nContent-Length: 1000000000\r\n\r\n")
        async with (
            a_host(stares) as host,
            a_door("a.example", dial=host.dial) as door,
            door.knock(asked) as client,
        ):
            with pytest.raises(TimeoutError):
                while True:
                    client.writer.write(bytes(1 << 20))
                    async with asyncio.timeout(0.5):
                        await client.writer.drain()
            has_waited.set()
            assert (await client.reader.readline()).startswith(b"HTTP/1.1 502 ")
            client.writer.transport.abort()

    run_async(part())


def test_a_connection_ends_with_its_answer_though_the_client_stays() -> None:
    async def part() -> None:
        async with (
            a_host(answers_ok) as host,
            a_door("a.example", dial=host.dial) as door,
            door.knock(GET) as client,
        ):
            assert await client.reader.read() == OK
            await until(lambda: door.num_open == 0)

    run_async(part())


def test_an_answer_that_breaks_off_is_not_taken_for_a_whole_one() -> None:
    async def part() -> None:
        is_read = asyncio.Event()

        async def breaks_off(host: Host, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await host.read(reader, b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\n\r\nhalf")
            await is_read.wait()
            reset(writer)

        async with (
            a_host(breaks_off) as host,
            a_door("a.example", dial=host.dial) as door,
            door.knock(GET) as client,
        ):
            await client.reader.readuntil(b"half")
            is_read.set()
            with pytest.raises(ConnectionResetError):
                await client.reader.read()

    run_async(part())


def test_a_tunnel_in_which_nothing_happens_is_cut() -> None:
    async def part() -> None:
        async with (
            a_host(answers_ok) as host,
            a_door("a.example", dial=host.dial, limits=SHORT) as door,
            door.knock() as client,
        ):
            await client.connect("a.example:443")
            client.writer.write(client_hello("a.example"))
            with pytest.raises(ConnectionResetError):
                await client.reader.read()

    run_async(part())


def test_what_is_slow_but_alive_goes_on() -> None:
    async def is_slow(host: Host, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await host.read(reader, b"\r\n\r\n")
        await drip(writer, OK)

    async def part() -> None:
        async with a_host(is_slow) as host, a_door("a.example", dial=host.dial, limits=SHORT) as door:
            started = time.monotonic()
            assert await door.ask(GET) == OK
            assert time.monotonic() - started > 3 * SHORT.idle_s

    run_async(part())


def test_a_host_that_answers_before_it_has_read_all_is_heard() -> None:
    async def is_full(host: Host, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await host.read(reader, b"\r\n\r\n")
        writer.write(OK)
        writer.write_eof()
        await host.read(reader)

    async def part() -> None:
        asked = GET.replace(b"\r\n\r\n", b"\r\nContent-Length: 100000000\r\n\r\n") + bytes(100_000)
        async with a_host(is_full) as host, a_door("a.example", dial=host.dial) as door:
            assert await door.ask(asked) == OK

    run_async(part())
