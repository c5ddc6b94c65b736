"""What one connection through the proxy may take of the driver: time, memory, tasks, and open connections."""

import asyncio
import time

import pytest
from proxy_box import GET, OK, SHORT, Host, a_door, a_host, answers_ok, drip, settled, swallows, until
from support import run_async
from tls_hello import client_hello

from palaestra.sandboxes.allow import Allow
from palaestra.sandboxes.proxy import Refusal, serve


class Reply:
    """A client that reads nothing until it is told to, or is gone."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.may_go_on = asyncio.Event()
        self.is_gone = False
        self.is_closed = False

    def write(self, data: bytes) -> None:
        self.written += data

    async def drain(self) -> None:
        if self.is_gone:
            raise ConnectionResetError
        await self.may_go_on.wait()

    def close(self) -> None:
        self.is_closed = True


def nobody(refusal: Refusal) -> None:
    raise AssertionError(refusal)


@pytest.mark.parametrize(
    ("goal", "slow"),
    [
        (None, b"GET http://a.example/ HTTP/1.1\r\nX: " + b"x" * 2000),
        (None, b""),
        ("a.example:80", b"GET / HTTP/1.1\r\nX: " + b"x" * 2000),
        ("a.example:80", b""),
    ],
)
def test_a_slow_client_is_told_and_dropped(goal: str | None, slow: bytes) -> None:
    async def part() -> None:
        async with (
            a_host(swallows) as host,
            a_door("a.example", dial=host.dial, limits=SHORT) as door,
            door.knock() as client,
        ):
            if goal:
                await client.connect(goal)
            started = time.monotonic()
            dripping = asyncio.create_task(drip(client.writer, slow))
            assert (await client.reader.read()).startswith(b"HTTP/1.1 408 ")
            assert time.monotonic() - started < 5
            await until(lambda: door.num_open == 0)
            assert host.received == b""
            dripping.cancel()

    run_async(part())


def test_a_slow_client_hello_ends_with_an_alert() -> None:
    async def part() -> None:
        async with (
            a_host(swallows) as host,
            a_door("a.example", dial=host.dial, limits=SHORT) as door,
            door.knock() as client,
        ):
            await client.connect("a.example:443")
            dripping = asyncio.create_task(drip(client.writer, client_hello("a.example")))
            assert (await client.reader.read()).startswith(b"\x15\x03")
            dripping.cancel()
            assert host.received == b"" and door.refusals[0].status == 408

    run_async(part())


def test_a_client_that_comes_and_goes_is_no_refusal() -> None:
    async def part() -> None:
        async with a_host(swallows) as host, a_door("a.example", dial=host.dial) as door:
            async with door.knock() as client:
                client.writer.write_eof()
                assert await client.reader.read() == b""
            async with door.knock() as client:
                await client.connect("a.example:443")
                client.writer.write_eof()
                assert await client.reader.read() == b""
            assert door.refusals == []

    run_async(part())


class Late:
    """A client whose next byte and whose end for idleness fall into one turn of a busy event loop."""

    def __init__(self, sent: bytes) -> None:
        self._sent = [sent]

    async def read(self, size: int) -> bytes:
        if self._sent:
            return self._sent.pop()
        loop = asyncio.get_running_loop()
        byte: asyncio.Future[bytes] = loop.create_future()
        loop.call_later(SHORT.idle_s - 0.1, time.sleep, 0.2)
        loop.call_later(SHORT.idle_s - 0.05, byte.set_result, b"x")
        return await byte


def test_a_byte_that_comes_with_the_end_for_idleness_does_not_break_the_proxy() -> None:
    async def part() -> None:
        refusals: list[Refusal] = []
        async with a_host(swallows) as host:
            client, reply = Late(GET.replace(b"\r\n\r\n", b"\r\nContent-Length: 9\r\n\r\n")), Reply()
            reply.may_go_on.set()
            policy = Allow.parse(["a.example"])
            await serve(policy, client, reply, dial=host.dial, on_refusal=refusals.append, limits=SHORT)
            assert [refusal.status for refusal in refusals] == [504]

    run_async(part())


def test_a_client_that_does_not_read_holds_the_host_back() -> None:
    async def floods(host: Host, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(bytes(1 << 16))
            await writer.drain()
            host.received += b"."

    async def part() -> None:
        async with a_host(floods) as host:
            client, reply = asyncio.StreamReader(), Reply()
            client.feed_data(GET)
            serving = asyncio.create_task(
                serve(Allow.parse(["a.example"]), client, reply, dial=host.dial, on_refusal=nobody)
            )
            await until(lambda: len(reply.written) > 0)
            seen = await settled(lambda: len(host.received))
            assert len(reply.written) <= 1 << 16
            reply.may_go_on.set()
            await until(lambda: len(host.received) > seen + 100)
            serving.cancel()
            await asyncio.wait([serving])

    run_async(part())


def test_a_host_that_does_not_read_holds_the_client_back() -> None:
    async def part() -> None:
        may_go_on = asyncio.Event()

        async def stares(host: Host, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await may_go_on.wait()
            await host.read(reader)

        async with (
            a_host(stares) as host,
            a_door("a.example", dial=host.dial) as door,
            door.knock() as client,
        ):
            await client.connect("a.example:443")
            client.writer.write(client_hello("a.example"))
            sent = 0
            with pytest.raises(TimeoutError):
                while sent < 1 << 28:
                    client.writer.write(bytes(1 << 20))
                    sent += 1 << 20
                    async with asyncio.timeout(0.5):
                        await client.writer.drain()
            may_go_on.set()
            client.writer.write_eof()
            assert await client.reader.read() == b""
            assert len(host.received) == len(client_hello("a.example")) + sent

    run_async(part())


def test_a_client_that_is_gone_takes_its_connection_to_the_host_along() -> None:
    async def part() -> None:
        has_ended = asyncio.Event()

        async def talks(host: Host, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                while True:
                    writer.write(b"x")
                    await writer.drain()
                    await asyncio.sleep(0.01)
            except ConnectionError:
                has_ended.set()

        async with a_host(talks) as host:
            client, reply = asyncio.StreamReader(), Reply()
            reply.may_go_on.set()
            client.feed_data(GET)
            serving = asyncio.create_task(
                serve(Allow.parse(["a.example"]), client, reply, dial=host.dial, on_refusal=nobody)
            )
            await until(lambda: len(reply.written) > 0)
            reply.is_gone = True
            async with asyncio.timeout(10):
                await serving
                await has_ended.wait()
            assert not reply.is_closed

    run_async(part())


def test_a_cancelled_connection_leaves_no_task_and_no_connection() -> None:
    async def part() -> None:
        async with a_host(swallows) as host:
            before = asyncio.all_tasks()
            serving: list[asyncio.Task[None]] = []
            for sent in (
                b"",
                b"GET",
                GET,
                b"CONNECT a.example:443 HTTP/1.1\r\n\r\n" + client_hello("a.example"),
            ):
                client, reply = asyncio.StreamReader(), Reply()
                reply.may_go_on.set()
                client.feed_data(sent)
                call = serve(Allow.parse(["a.example"]), client, reply, dial=host.dial, on_refusal=nobody)
                serving.append(asyncio.create_task(call))
            await until(lambda: host.num_connections == 2 and len(host.received) > 300)
            hosts_tasks = asyncio.all_tasks() - before - set(serving)
            for task in serving:
                task.cancel()
            await asyncio.wait(serving)
            assert all(task.cancelled() for task in serving)
            await until(lambda: asyncio.all_tasks() == before)
            assert hosts_tasks and all(task.done() for task in hosts_tasks)

    run_async(part())


def test_a_hundred_connections_at_one_time_leave_nothing() -> None:
    async def part() -> None:
        async with a_host(answers_ok) as host, a_door("a.example", dial=host.dial) as door:
            assert await asyncio.gather(*(door.ask(GET) for _ in range(100))) == [OK] * 100
            assert host.num_connections == 100

    run_async(part())
