"""Pools of real sandboxes: what they leave behind, and what one lease knows of another."""

import asyncio
import os
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from docker_box import engine, wait_until_gone
from embedded_box import TIERS, leaves_nothing
from sleepers import SLEEP, sleepers, until
from support import require, run_async

from palaestra.sandboxes import Sandbox, SandboxSpec
from palaestra.sandboxes._docker.owner import owner_label
from palaestra.sandboxes._driver.client import BoxClient
from palaestra.sandboxes._embedded.zygotes import zygote
from palaestra.sandboxes._inside.loop import PARKED_S
from palaestra.sandboxes.docker import DockerSandbox
from palaestra.sandboxes.local import LocalSandbox
from palaestra.sandboxes.pool import Pool

on_each_backend = pytest.mark.parametrize(
    "backend", [*TIERS, pytest.param("docker", marks=pytest.mark.docker)]
)


@pytest.fixture(autouse=True)
def _nothing_is_left(backend: str) -> Iterator[None]:
    if backend == "docker":
        yield from _no_container_is_left()
    else:
        yield from leaves_nothing(backend)


def _no_container_is_left() -> Iterator[None]:
    require("docker")
    yield
    wait_until_gone(owner_label(os.getpid()))


def descriptors() -> set[str]:
    """What this process has open."""
    found = set[str]()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
        except FileNotFoundError:  # the one that lists
            continue
    return found


def killing(box: Sandbox) -> Callable[[], None]:
    """The call that kills a sandbox from outside."""

    def kill() -> None:
        if isinstance(box, DockerSandbox):
            with engine() as api:
                api.remove_container(box.container, force=True)
        else:
            assert isinstance(box, LocalSandbox)
            zygote(box.tier).kill(box.number)

    return kill


async def is_ready(pool: Pool) -> None:
    await until(lambda: pool.stats().num_warm == pool.warm and not pool.stats().num_closing)


async def crowd(backend: str, num_leases: int, num_slots: int, within_s: float, seed: int) -> None:
    """Many leases on few slots; half of them are cancelled at a random moment."""
    rng = random.Random(seed)
    async with Pool(SandboxSpec(backend=backend, memory_mb=64), size=num_slots) as pool:

        async def one(number: int) -> None:
            async with pool.lease() as box:
                await box.write("mine", b"%d" % number)
                await box.run(["sh", "-c", f"{SLEEP} & sleep 0.02"])
                assert await box.read("mine") == b"%d" % number
                assert await box.list() == ["mine"]

        tasks = [asyncio.create_task(one(number)) for number in range(num_leases)]
        for task in rng.sample(tasks, num_leases // 2):
            asyncio.get_running_loop().call_later(rng.uniform(0, within_s), task.cancel)
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        odd = [end for end in ends if end is not None and not isinstance(end, asyncio.CancelledError)]
        assert not odd, f"seed {seed}: {odd}"
        assert sum(end is None for end in ends) >= num_leases // 2
        await is_ready(pool)
        stats = pool.stats()
        assert stats.num_leased == stats.num_waiting == 0 and stats.num_failed_starts == 0
        assert stats.num_served + stats.num_given_up == num_leases
    assert asyncio.all_tasks() == {asyncio.current_task()} and not sleepers()


async def warm_up(backend: str) -> None:
    """What the first sandbox of a process opens for good."""
    async with Pool(SandboxSpec(backend=backend), size=1) as pool, pool.lease() as box:
        await box.write("file", b"")  # so that it is not kept for the next owner


def crowd_leaves_nothing(backend: str, *args: Any) -> None:
    run_async(warm_up(backend))
    before = lasting_descriptors(backend)
    run_async(crowd(backend, *args))
    assert lasting_descriptors(backend) == before


def lasting_descriptors(backend: str) -> set[str]:
    """Without those of sandboxes that wait for their next owner, which is over soon."""
    if backend in TIERS:
        time.sleep(PARKED_S)
        zygote(backend).drop_late()
    return descriptors()


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("backend", TIERS)
def test_256_leases_on_8_slots_half_of_them_cancelled_leave_nothing(backend: str, seed: int) -> None:
    crowd_leaves_nothing(backend, 256, 8, 3.0, seed)


@pytest.mark.docker
@pytest.mark.parametrize("backend", ["docker"])
def test_32_leases_on_4_containers_half_of_them_cancelled_leave_nothing(backend: str) -> None:
    crowd_leaves_nothing(backend, 32, 4, 8.0, 0)


@pytest.mark.docker
@pytest.mark.acceptance
@pytest.mark.parametrize("backend", ["docker"])
def test_256_leases_on_8_containers_half_of_them_cancelled_leave_nothing(backend: str) -> None:
    crowd_leaves_nothing(backend, 256, 8, 60.0, 1)


@on_each_backend
def test_a_warm_sandbox_that_died_is_replaced_without_a_word(backend: str) -> None:
    async def main() -> None:
        opened: list[Sandbox] = []

        async def opening(spec: SandboxSpec) -> Sandbox:
            from palaestra.sandboxes.backends import create_sandbox

            opened.append(await create_sandbox(spec))
            return opened[-1]

        async with Pool(SandboxSpec(backend=backend), size=2, warm=1, open=opening) as pool:
            await is_ready(pool)
            died = opened[0]
            assert isinstance(died, BoxClient)
            await asyncio.to_thread(killing(died))
            await until(lambda: not died.link.is_open)
            async with pool.lease() as box:
                assert box is not died
                assert (await box.run(["true"])).ok
            assert pool.stats().num_replaced == 1

    run_async(main())


@on_each_backend
def test_a_lease_finds_nothing_of_the_one_before_it(backend: str) -> None:
    async def main() -> None:
        async with Pool(SandboxSpec(backend=backend), size=1, warm=1) as pool:
            for _ in range(2):
                async with pool.lease() as box:
                    assert await box.list() == []
                    assert (await box.run(["sh", "-c", "ls -A /tmp | grep -v workspace"])).stdout == b""
                    await box.write("secret", b"x")
                    await box.run(["sh", "-c", "echo x > ${TMPDIR:-/tmp}/secret"])

    run_async(main())


@on_each_backend
def test_time_in_the_queue_is_told_and_is_not_the_programs(backend: str) -> None:
    async def main() -> None:
        async with Pool(SandboxSpec(backend=backend), size=1, warm=0) as pool:
            first, second = pool.lease(), pool.lease()

            async def later() -> float:
                async with second as box:
                    result = await box.run(["sleep", "0.1"], timeout_s=1.2)
                assert result.ok, result
                return result.wall_s

            async with first as box:
                waiting = asyncio.create_task(later())
                assert (await box.run(["sleep", "1.5"])).ok
            assert await waiting < 1.2
            assert second.queue_s >= 1.5 and pool.stats().max_queue_s == second.queue_s

    run_async(main())


@on_each_backend
def test_leaving_a_pool_ends_what_runs_in_its_sandboxes(backend: str) -> None:
    async def main() -> None:
        async with Pool(SandboxSpec(backend=backend), size=2, warm=1) as pool:
            box = await pool.lease().__aenter__()
            running = asyncio.create_task(box.run(["sh", "-c", f"setsid {SLEEP} & {SLEEP}"], timeout_s=60))
            await until(lambda: len(sleepers()) == 2)
            started = time.monotonic()
        assert time.monotonic() - started < 5
        await asyncio.gather(running, return_exceptions=True)
        assert isinstance(running.exception(), Exception) and not sleepers()

    run_async(main())
