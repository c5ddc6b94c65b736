"""The bridge between a sandbox's relay and the proxy, ended at every moment of a connection's life."""

import asyncio
import gc
from typing import Any

import pytest
from support import run_async

from palaestra.sandboxes._driver.calls import Receiver
from palaestra.sandboxes._driver.network import Answerer, Gate

CHANNEL = 7


class Wire:
    """Takes every part at once, and keeps it."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.told: list[dict[str, Any]] = []
        self.is_hung_up = asyncio.Event()

    def send(self, receiver: Receiver, head: dict[str, Any], *payload: bytes) -> int:
        self.parts += payload
        receiver.take([b"done"], b"")
        return len(self.parts)

    def tell(self, head: dict[str, Any]) -> None:
        self.told.append(head)
        if head["op"] == "hang_up":
            self.is_hung_up.set()


async def answers(reader: asyncio.StreamReader, reply: Answerer) -> None:
    reply.write(await reader.read() + b", heard")
    await reply.drain()
    reply.close()


def begun(wire: Wire) -> Gate:
    gate = Gate(wire, answers)
    gate.take(CHANNEL, [b"dial"], b"")
    gate.take(CHANNEL, [b"data"], b"all")
    gate.take(CHANNEL, [b"end"], b"")
    return gate


def hang_up(*, is_whole: bool) -> dict[str, Any]:
    return {"op": "hang_up", "job": CHANNEL, "is_whole": is_whole}


@pytest.mark.parametrize("steps", range(24))
def test_a_connection_ended_at_any_moment_is_closed_and_told_once(steps: int) -> None:
    wire = Wire()

    async def whole() -> None:
        gate = begun(wire)
        for _ in range(steps):
            await asyncio.sleep(0)
        await gate.close()
        gc.collect()  # a stream that was left open warns here, and a warning fails the test

    run_async(whole())
    told = [head for head in wire.told if head["op"] == "hang_up"]
    assert told in ([hang_up(is_whole=False)], [hang_up(is_whole=True)]) or (not steps and not told)


def test_all_of_an_answer_is_passed_on_before_the_hang_up() -> None:
    wire = Wire()

    async def whole() -> None:
        begun(wire)
        async with asyncio.timeout(20):
            await wire.is_hung_up.wait()

    run_async(whole())
    assert b"".join(wire.parts) == b"all, heard"
    assert hang_up(is_whole=True) in wire.told
