"""Who gets which sandbox and when, with sandboxes that are made up: no process is started."""

import asyncio
import random
from typing import cast

import pytest
from sleepers import until
from support import run_async

from palaestra.sandboxes import Sandbox, SandboxError, SandboxLost, SandboxSpec, SandboxUnavailable
from palaestra.sandboxes import pool as pool_module
from palaestra.sandboxes.pool import Pool


class Box:
    """The two calls of a sandbox that a pool makes."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.is_dead = self.is_silent = self.is_closed = False

    async def list(self, path: str = ".") -> list[str]:
        await asyncio.sleep(10 if self.is_silent else 0)
        if self.is_dead:
            raise SandboxLost("it died")
        return []

    async def close(self) -> None:
        await asyncio.sleep(0.001)
        assert not self.is_closed, "closed twice"
        self.is_closed = True


class Maker:
    """Opens boxes; `faults[n]` is what the n-th call of it raises."""

    def __init__(self, faults: dict[int, Exception] | None = None, lasts_s: float = 0.0) -> None:
        self.faults = faults or {}
        self.lasts_s = lasts_s
        self.boxes: list[Box] = []
        self.num_calls = self.num_opening = self.max_alive = 0

    async def __call__(self, spec: SandboxSpec) -> Sandbox:
        self.num_calls += 1
        fault = self.faults.get(self.num_calls)
        self.num_opening += 1
        try:
            self.max_alive = max(self.max_alive, self.num_opening + len(self.open))
            await asyncio.sleep(self.lasts_s)
        finally:
            self.num_opening -= 1
        if fault is not None:
            raise fault
        self.boxes.append(Box(len(self.boxes)))
        return cast(Sandbox, self.boxes[-1])

    @property
    def open(self) -> list[Box]:
        return [box for box in self.boxes if not box.is_closed]


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    def backoff_s(first_s: float, failures: int, **limits: float) -> float:
        return 0.01 * first_s * failures

    monkeypatch.setattr(pool_module, "backoff_s", backoff_s)


async def is_ready(pool: Pool) -> None:
    """The shelf is full and nothing moves."""
    await until(lambda: pool.stats().num_warm == pool.warm and not pool.stats().num_closing)


async def number(pool: Pool) -> int:
    async with pool.lease() as box:
        return cast(Box, box).number


def test_no_sandbox_is_leased_twice_and_as_many_as_said_stand_ready() -> None:
    async def main() -> None:
        make = Maker()
        async with Pool(size=4, warm=2, open=make) as pool:
            await is_ready(pool)
            assert len(make.open) == 2
            seen = [await number(pool) for _ in range(20)]
            assert len(set(seen)) == 20
            await is_ready(pool)
            assert len(make.open) == 2
        assert not make.open and make.max_alive <= 4

    run_async(main())


def test_leases_are_served_in_the_order_of_asking_and_know_how_long_they_waited() -> None:
    async def main() -> None:
        make, served = Maker(), list[int]()
        async with Pool(size=2, warm=0, open=make) as pool:

            async def one(asker: int) -> float:
                lease = pool.lease()
                assert lease.queue_s == 0.0
                async with lease:
                    served.append(asker)
                    await asyncio.sleep(random.uniform(0, 0.01))
                return lease.queue_s

            queue_s = await asyncio.gather(*map(one, range(40)))
            stats = pool.stats()
        assert served == list(range(40)) and make.max_alive == 2
        assert queue_s[39] > queue_s[20] > queue_s[2] > 0
        assert stats.num_served == 40 and stats.max_queue_s == max(queue_s)
        assert stats.queue_s == pytest.approx(sum(queue_s))

    run_async(main())


def test_a_cancelled_asker_leaves_its_place_and_those_behind_it_move_up() -> None:
    async def main() -> None:
        async with Pool(size=1, warm=0, open=Maker()) as pool:
            async with pool.lease():
                askers = [asyncio.create_task(number(pool)) for _ in range(4)]
                await asyncio.sleep(0)
                assert pool.stats().num_waiting == 4
                askers[0].cancel()
                askers[2].cancel()
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                assert pool.stats().num_waiting == 2
            numbers = await asyncio.gather(*askers, return_exceptions=True)
        assert [isinstance(each, asyncio.CancelledError) for each in numbers] == [True, False, True, False]
        assert pool.stats().num_given_up == 2

    run_async(main())


def test_an_asker_cancelled_in_the_moment_it_is_served_loses_no_sandbox() -> None:
    async def main() -> None:
        make = Maker()
        async with Pool(size=1, warm=1, open=make) as pool:
            await is_ready(pool)
            asker = asyncio.create_task(number(pool))
            while pool.stats().num_leased == 0:
                assert not asker.done()
                await asyncio.sleep(0)
            asker.cancel()  # served, and not awake yet
            with pytest.raises(asyncio.CancelledError):
                await asker
            assert pool.stats().num_leased == 0
            assert await number(pool) == 0  # nobody had seen it: it was good for the next
        assert not make.open

    run_async(main())


@pytest.mark.parametrize("seed", range(5))
def test_whatever_is_cancelled_whenever_nothing_is_left(seed: int) -> None:
    async def main() -> None:
        rng = random.Random(seed)
        faults: dict[int, Exception] = {n: SandboxLost("passing") for n in range(1, 99, 7)}
        make = Maker(faults, lasts_s=0.002)
        async with Pool(size=8, warm=rng.randrange(3), open=make) as pool:

            async def one() -> None:
                async with pool.lease() as box:
                    assert not cast(Box, box).is_closed
                    await asyncio.sleep(rng.uniform(0, 0.01))

            tasks = [asyncio.create_task(one()) for _ in range(256)]
            for task in rng.sample(tasks, 128):
                asyncio.get_running_loop().call_later(rng.uniform(0, 0.15), task.cancel)
            ends = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(end is None or isinstance(end, asyncio.CancelledError) for end in ends), ends
            assert sum(end is None for end in ends) >= 128
            await is_ready(pool)
            assert pool.stats().num_served + pool.stats().num_given_up == 256
        assert not make.open and make.max_alive <= 8
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run_async(main())


@pytest.mark.parametrize("how", ["is_dead", "is_silent"])
def test_a_sandbox_that_died_on_the_shelf_is_replaced_and_counted(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "_CHECK_S", 0.02)

    async def main() -> None:
        make = Maker()
        async with Pool(size=3, warm=2, open=make) as pool:
            await is_ready(pool)
            setattr(make.boxes[0], how, True)
            async with pool.lease() as box:
                assert cast(Box, box).number != 0
            await until(lambda: make.boxes[0].is_closed)
            assert pool.stats().num_replaced == 1

    run_async(main())


def test_a_passing_failure_is_tried_again_and_the_asker_sees_none_of_it() -> None:
    async def main() -> None:
        make = Maker({1: SandboxLost("engine down"), 2: SandboxLost("engine down")})
        async with Pool(size=1, warm=0, open=make) as pool:
            assert await number(pool) == 0
            assert (pool.stats().num_failed_starts, make.num_calls) == (2, 3)

    run_async(main())


def test_a_failure_that_does_not_pass_reaches_the_first_asker_and_the_next_is_tried_anew() -> None:
    async def main() -> None:
        make = Maker({n: SandboxLost(f"down {n}") for n in range(1, 6)})
        async with Pool(size=1, warm=0, open=make) as pool:
            first, second = asyncio.create_task(number(pool)), asyncio.create_task(number(pool))
            with pytest.raises(SandboxLost, match="down 5"):
                await first
            assert await second == 0

    run_async(main())


@pytest.mark.parametrize("error", [SandboxUnavailable("no wall"), ValueError("no backend"), OSError("?")])
def test_what_will_not_pass_is_raised_at_once_and_not_tried_without_an_asker(error: Exception) -> None:
    async def main() -> None:
        make = Maker({n: error for n in range(1, 99)})
        async with Pool(size=4, warm=2, open=make) as pool:
            await until(lambda: pool.stats().num_failed_starts >= 1)
            await asyncio.sleep(0.02)
            tried = make.num_calls
            assert tried <= 2
            with pytest.raises(type(error), match=str(error).replace("?", r"\?")):
                await number(pool)
            assert make.num_calls == tried + 1
            # When a start succeeds again, the shelf is filled again.
            make.faults.clear()
            await number(pool)
            await is_ready(pool)

    run_async(main())


def test_leaving_the_block_closes_all_in_whatever_state_and_refuses_those_who_wait() -> None:
    async def main() -> None:
        make = Maker(lasts_s=0.005)
        async with Pool(size=3, warm=1, open=make) as pool:
            held = [pool.lease(), pool.lease(), pool.lease()]
            boxes = [await lease.__aenter__() for lease in held]
            waiting = asyncio.create_task(number(pool))
            await asyncio.sleep(0)
        with pytest.raises(SandboxError, match="closed"):
            await waiting
        assert all(cast(Box, box).is_closed for box in boxes) and not make.open
        for lease in held:
            await lease.__aexit__()
        with pytest.raises(SandboxError, match="closed"):
            await number(pool)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run_async(main())


def test_leaving_the_block_under_cancellation_still_closes_everything() -> None:
    async def main() -> None:
        make = Maker(lasts_s=0.001)

        async def whole() -> None:
            async with Pool(size=4, warm=4, open=make) as pool:
                await is_ready(pool)

        task = asyncio.create_task(whole())
        await until(lambda: len(make.open) == 4)
        for _ in range(5):
            task.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not make.open and asyncio.all_tasks() == {asyncio.current_task()}

    run_async(main())


def test_a_crash_of_a_sandbox_that_closes_is_raised_by_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    async def crash(_: Box) -> None:
        raise RuntimeError("a bug of ours")

    async def main() -> None:
        with pytest.raises(ExceptionGroup, match="crashed") as caught:
            async with Pool(size=1, warm=0, open=Maker()) as pool:
                monkeypatch.setattr(Box, "close", crash)
                await number(pool)
                assert await number(pool) == 1
        assert [str(error) for error in caught.value.exceptions] == ["a bug of ours"] * 2

    run_async(main())


def test_a_pool_that_was_not_entered_leases_nothing() -> None:
    async def main() -> None:
        make = Maker()
        with pytest.raises(SandboxError, match="async with"):
            await number(Pool(open=make))
        assert make.num_calls == 0

    run_async(main())


def test_a_lease_is_for_one_block_and_sizes_make_sense() -> None:
    async def main() -> None:
        async with Pool(size=2, warm=0, open=Maker()) as pool:
            lease = pool.lease()
            async with lease:
                pass
            with pytest.raises(ValueError, match="one block"):
                async with lease:
                    pass

    run_async(main())
    for size, warm in ((0, 0), (2, -1)):
        with pytest.raises(ValueError, match=f"got {size} and {warm}"):
            Pool(size=size, warm=warm)
