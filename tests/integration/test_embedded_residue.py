"""What passed through a sandbox is not in the memory of its later programs, all forks of one process."""

import os
from collections.abc import Awaitable, Callable, Iterator

import pytest
from embedded_box import leaves_nothing, on_each_tier, play
from memory_scan import named, put_in_and_out, read, scan, written

from palaestra.sandboxes import Sandbox


@pytest.fixture(autouse=True)
def _nothing_is_left(tier: str) -> Iterator[None]:
    yield from leaves_nothing(tier)


@on_each_tier
@pytest.mark.parametrize("way", [written, read, put_in_and_out, named])
def test_a_later_program_finds_nothing_that_passed_through_before(
    tier: str, way: Callable[[Sandbox, bytes], Awaitable[None]]
) -> None:
    canary = os.urandom(32)
    spelled = canary.hex()[:32].encode() if way is named else canary

    async def part(box: Sandbox) -> None:
        for size in (200, 3_000, 30_000, 1 << 20):
            await way(box, (canary * (size // 32 + 1))[:size])
        assert await scan(box, spelled) == [0, 0]

    play(tier, part)


@on_each_tier
def test_the_scan_finds_what_is_there(tier: str) -> None:
    canary = os.urandom(32)

    async def part(box: Sandbox) -> None:
        in_heap, mapped = await scan(box, canary, canary.hex())
        assert in_heap >= 30 and mapped >= 30_000

    play(tier, part)
