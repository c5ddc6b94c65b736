"""A burst of sandboxes: few are new at one time, in the order of asking; nobody keeps a place for good."""

import asyncio
import os

from palaestra.sandboxes._newcomers import Newcomer, admit

ROOM = 3 * len(os.sched_getaffinity(0))


async def _fill() -> list[Newcomer]:
    return [await admit() for _ in range(ROOM)]


def test_no_more_than_three_for_each_processor_are_new_and_the_next_comes_when_one_leaves() -> None:
    async def whole() -> None:
        first = await _fill()
        order: list[int] = []

        async def enter(number: int) -> None:
            await admit()
            order.append(number)

        waiting = [asyncio.create_task(enter(number)) for number in range(3)]
        await asyncio.sleep(0)
        assert order == []
        for newcomer in first[:2]:
            newcomer.leave()
        await asyncio.gather(*waiting[:2])
        assert order == [0, 1]
        await waiting[2]

    asyncio.run(whole())


def test_who_stays_makes_room_by_age_and_leaves_once_only() -> None:
    async def whole() -> None:
        first = await _fill()
        second = await asyncio.wait_for(_fill(), 10)
        for newcomer in first:
            newcomer.leave()
        assert len(second) == ROOM
        third = asyncio.create_task(admit())
        await asyncio.sleep(0)
        # The first had left by age: to leave again gives nobody a place.
        assert not third.done()
        await asyncio.wait_for(third, 10)

    asyncio.run(whole())


def test_who_is_cancelled_while_waiting_takes_no_place() -> None:
    async def whole() -> None:
        first = await _fill()
        waiting = [asyncio.create_task(admit()) for _ in range(2 * ROOM)]
        await asyncio.sleep(0)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        for newcomer in first:
            newcomer.leave()
        again = asyncio.create_task(_fill())
        await asyncio.sleep(0)
        assert again.done(), "places were lost to the cancelled"

    asyncio.run(whole())
