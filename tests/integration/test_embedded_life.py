"""Open, cancel, crash, close: what embedded sandboxes do when something goes wrong around them."""

import asyncio
import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from embedded_box import directories, leaves_nothing, on_each_tier, play, printed
from sleepers import SLEEP, sleepers, until
from support import run_async

from palaestra.sandboxes import (
    ExecStatus,
    Sandbox,
    SandboxLost,
    SandboxSpec,
    SandboxUnavailable,
    local,
    open_sandbox,
)
from palaestra.sandboxes._embedded.supervisor import refuse
from palaestra.sandboxes._embedded.watch import start_time
from palaestra.sandboxes._embedded.zygotes import zygote
from palaestra.sandboxes._newcomers import admit
from palaestra.sandboxes.local import LocalSandbox

HELLO = ["python3", "-c", "print(6 * 7)"]


@pytest.fixture(autouse=True)
def _nothing_is_left(tier: str) -> Iterator[None]:
    yield from leaves_nothing(tier)


@on_each_tier
def test_a_hundred_and_twenty_eight_at_once_all_answer(tier: str) -> None:
    async def one(number: int) -> bytes:
        async with open_sandbox(SandboxSpec(backend=tier)) as box:
            await box.write("in", str(number).encode())
            return (await box.run(["python3", "-c", "print(int(open('in').read()) * 2)"])).stdout

    async def all_of_them() -> list[bytes]:
        return await asyncio.gather(*map(one, range(128)))

    assert run_async(all_of_them()) == [b"%d\n" % (2 * number) for number in range(128)]


@on_each_tier
def test_calls_on_one_sandbox_run_side_by_side(tier: str) -> None:
    # Each waits for the others: one after another, none would end.
    meeting = "touch $1; until [ -e 0 ] && [ -e 1 ] && [ -e 2 ]; do sleep 0.01; done; echo $1 met"

    async def part(box: Sandbox) -> None:
        results = await asyncio.gather(*(box.run(["sh", "-c", meeting, "sh", str(n)]) for n in range(3)))
        assert [result.stdout for result in results] == [b"%d met\n" % n for n in range(3)]

    play(tier, part)


@on_each_tier
def test_a_cancelled_run_kills_its_program_and_the_sandbox_stays_good(tier: str) -> None:
    async def part(box: Sandbox) -> None:
        for _ in range(3):
            running = asyncio.create_task(box.run(["sh", "-c", f"echo > begun; {SLEEP}; echo > late"]))
            await until(lambda: bool(sleepers()))
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            assert printed(await box.run(HELLO)) == "42"
            assert not sleepers() and await box.list() == ["begun"]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(box.run(["sleep", "60"]), 0.05)

    play(tier, part)


@on_each_tier
def test_closing_ends_what_runs_and_may_be_repeated(tier: str) -> None:
    async def whole() -> None:
        async with open_sandbox(SandboxSpec(backend=tier)) as box:
            running = asyncio.create_task(box.run(["sh", "-c", f"setsid {SLEEP} & {SLEEP}"], timeout_s=60))
            await until(lambda: len(sleepers()) == 2)
            started = time.monotonic()
            await box.close()
            with pytest.raises(SandboxLost):
                await running
            await box.close()
            for call in (box.run(HELLO), box.list(), box.write("x", b"")):
                with pytest.raises(SandboxLost, match="closed"):
                    await call
            assert time.monotonic() - started < 2

    run_async(whole())


@on_each_tier
def test_half_of_many_cancelled_at_any_stage_leave_nothing(tier: str) -> None:
    async def one(number: int) -> bool:
        async with open_sandbox(SandboxSpec(backend=tier)) as box:
            result = await box.run(["python3", "-c", "import time; time.sleep(0.05)"], stdin=b"x" * (1 << 18))
            return result.ok

    async def whole() -> None:
        tasks = [asyncio.create_task(one(number)) for number in range(64)]
        for number, task in enumerate(tasks):
            if number % 2:
                await asyncio.sleep(0.003)
                task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(results[0::2])
        assert all(result is True or isinstance(result, asyncio.CancelledError) for result in results[1::2])

    run_async(whole())


@on_each_tier
def test_a_supervisor_that_is_killed_is_a_lost_sandbox_and_takes_everything_along(tier: str) -> None:
    async def whole() -> None:
        async with open_sandbox(SandboxSpec(backend=tier)) as box:
            assert isinstance(box, LocalSandbox)
            running = asyncio.create_task(box.run(["sh", "-c", f"setsid {SLEEP} & {SLEEP}"], timeout_s=60))
            await until(lambda: len(sleepers()) == 2)
            zygote(tier).kill(box.number)
            with pytest.raises(SandboxLost):
                await running
            with pytest.raises(SandboxLost):
                await box.list()
            await until(lambda: not sleepers())
        async with open_sandbox(SandboxSpec(backend=tier)) as box:
            assert printed(await box.run(HELLO)) == "42"

    run_async(whole())


def _kill_zygote(tier: str) -> None:
    """Returns when another has taken its place."""
    first = zygote(tier).pid
    os.kill(first, signal.SIGKILL)
    while zygote(tier).pid == first:
        time.sleep(0.01)


@on_each_tier
def test_after_the_zygote_died_open_sandboxes_go_on_and_new_ones_open(tier: str) -> None:
    async def whole() -> None:
        async with open_sandbox(SandboxSpec(backend=tier)) as old:
            _kill_zygote(tier)
            assert printed(await old.run(HELLO)) == "42"
            async with open_sandbox(SandboxSpec(backend=tier)) as new:
                assert printed(await new.run(HELLO)) == "42"

    run_async(whole())


@on_each_tier
def test_a_start_that_never_ends_is_a_lost_sandbox(tier: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "GRACE_S", 0.1)
    stuck = zygote(tier).pid

    async def whole() -> None:
        with pytest.raises(SandboxLost, match="did not start"):
            async with open_sandbox(SandboxSpec(backend=tier)):
                raise AssertionError

    os.kill(stuck, signal.SIGSTOP)
    try:
        run_async(whole())
    finally:
        os.kill(stuck, signal.SIGCONT)


@on_each_tier
def test_sandboxes_work_on_one_event_loop_after_another(tier: str) -> None:
    pids: set[int] = set()
    for _ in range(3):
        assert printed(play(tier, lambda box: box.run(HELLO))) == "42"
        pids.add(zygote(tier).pid)
    assert len(pids) == 1


DRIVER = """
import asyncio, sys
from palaestra.sandboxes import SandboxSpec, open_sandbox
async def one(n):
    async with open_sandbox(SandboxSpec(backend=sys.argv[1])) as box:
        await box.write("x", b"x")
        print("ready", flush=True)
        await box.run(["sh", "-c", f"setsid {sys.argv[2]} & {sys.argv[2]}"], timeout_s=400)
async def main(): await asyncio.gather(*map(one, range(4)))
asyncio.run(main())
"""


@on_each_tier
@pytest.mark.parametrize("stage", ["open", "run"])
def test_nothing_outlives_a_driver_that_is_killed(tier: str, stage: str) -> None:
    with subprocess.Popen([sys.executable, "-c", DRIVER, tier, SLEEP], stdout=subprocess.PIPE) as driver:
        assert driver.stdout is not None
        if stage == "run":
            for _ in range(4):
                assert driver.stdout.readline() == b"ready\n"
            run_async(until(lambda: len(sleepers()) == 8))
        children = Path(f"/proc/{driver.pid}/task/{driver.pid}/children")
        run_async(until(lambda: bool(children.read_text())))
        zygotes = children.read_text().split()
        driver.kill()
    run_async(until(lambda: not sleepers() and not directories()))
    run_async(until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in zygotes)))


@on_each_tier
def test_a_directory_without_an_owner_is_swept_at_the_next_start(tier: str) -> None:
    if tier != "landlock":
        pytest.skip("the namespaces tier has no directory on the host")
    dead = f"/dev/shm/palaestra-{os.stat('/proc/self/ns/pid').st_ino}-999999999-1"
    os.makedirs(f"{dead}/workspace/deep")
    _kill_zygote(tier)
    assert printed(play(tier, lambda box: box.run(HELLO))) == "42"
    assert not os.path.exists(dead)


@on_each_tier
def test_a_run_that_times_out_under_a_crowd_still_ends_on_time(tier: str) -> None:
    async def part(box: Sandbox) -> None:
        spin = "import os\nfor _ in range(40): os.fork() or os.setsid()\nwhile True: pass"
        result = await box.run(["python3", "-c", spin], timeout_s=0.5)
        assert result.status in (ExecStatus.TIMEOUT, ExecStatus.PIDS) and result.wall_s < 0.5 + 0.25

    play(tier, part)


FORKING_DRIVER = """
import asyncio, os, signal, sys, time
from palaestra.sandboxes import SandboxSpec, open_sandbox
from palaestra.sandboxes._embedded.zygotes import zygote

async def main():
    async with open_sandbox(SandboxSpec(backend=sys.argv[1])) as box:
        assert (await box.run(["true"])).ok
        child = os.fork()
        if child == 0: os.close(1); time.sleep(60); os._exit(0)
        print(zygote(sys.argv[1]).pid, child, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


@on_each_tier
def test_a_fork_of_a_killed_driver_keeps_no_sandbox_alive(tier: str) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", FORKING_DRIVER, tier], stdout=subprocess.PIPE, check=False
    )
    assert done.returncode == -signal.SIGKILL
    keeper, child = map(int, done.stdout.split())
    try:
        deadline = time.monotonic() + 10
        # Dead; whether anybody reaps it is the matter of the process that the orphan went to.
        while start_time(keeper) and "Z" not in Path(f"/proc/{keeper}/stat").read_text().split()[2]:
            assert time.monotonic() < deadline, "the zygote waits for the driver's fork"
            time.sleep(0.01)
    finally:
        os.kill(child, signal.SIGKILL)


@on_each_tier
def test_a_wall_that_cannot_be_put_up_is_named_to_whoever_opens(tier: str) -> None:
    async def whole() -> None:
        ours, theirs = socket.socketpair()
        box = LocalSandbox(SandboxSpec(), zygote(tier), 1 << 20, ours, await admit())
        opening = asyncio.create_task(box.open())
        await asyncio.sleep(0)
        with theirs:
            refuse(theirs.fileno(), OSError(errno.ENOSPC, "no room for the wall"))
        with pytest.raises(SandboxUnavailable, match="no room for the wall"):
            await opening
        box.link.close()

    run_async(whole())


@pytest.mark.parametrize("tier", ["namespaces"])
def test_a_fork_that_is_cancelled_when_its_files_have_come_lets_go_of_them(
    tier: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def part(box: Sandbox) -> None:
        assert isinstance(box, LocalSandbox)
        await box.write("file", b"x")
        freeze = box.ask
        before = os.listdir("/proc/self/fd")

        async def cancelled(head: dict[str, Any]) -> bytes:
            await freeze(head)
            raise asyncio.CancelledError

        with monkeypatch.context() as patch:
            patch.setattr(box, "ask", cancelled)
            with pytest.raises(asyncio.CancelledError):
                await box.fork()
        assert os.listdir("/proc/self/fd") == before

    play(tier, part)
