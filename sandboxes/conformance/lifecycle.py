"""What is left when drivers are killed, engines fail, and many come and go at once."""

import asyncio
import os
import random
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from .._embedded.watch import start_time
from .._inside.cell import descendants
from ..errors import SandboxError, SandboxLost
from ..pool import Pool
from ..sandbox import Sandbox
from .driving import end, start_driver
from .proc import is_alive
from .row import Broken, expect, printed, row, told
from .target import Target, load_opener

STAGES = ("create", "idle", "exec", "teardown", "grade")
LEASE_S = 2.0
"""How long after its driver's death anything of a sandbox may be there."""
LIMIT_S = 1.0
"""Of a program that takes a tenth of it; what it waits for a sandbox does not count."""
RECOVERY_S = 0.5
"""How long after a fault new sandboxes may still be lost."""
SHARE = 0.1
"""Seconds after a stage's mark in which the moment of a kill lies."""


@row(36, "a driver that is killed, at whatever stage, leaves nothing", limit_s=120)
async def killed_drivers(target: Target) -> str:
    moments = random.Random(36)
    slowest = 0.0
    for stage in STAGES:
        for _ in range(target.size(1, 12)):
            slowest = max(slowest, await _kill_one(target, stage, moments.uniform(0, SHARE)))
    return f"killed while at {', '.join(STAGES)}: all was gone {slowest:.2f} s later at most"


async def _kill_one(target: Target, stage: str, after_s: float) -> float:
    """Seconds from the kill until nothing was left."""
    boxes = target.size(1, 4)
    before = await asyncio.to_thread(target.view.everything)
    mark = f"30{random.SystemRandom().randrange(10**6)}.{os.getpid()}"
    driver = start_driver(target, {"stage": stage, "boxes": boxes, "mark": mark})
    try:
        await asyncio.to_thread(_wait_for_marks, driver, boxes)
        await asyncio.sleep(after_s)
        family = {pid: start_time(pid) for pid in descendants(driver.pid)}
        os.kill(driver.pid, signal.SIGKILL)
        killed = time.monotonic()
    finally:
        end(driver)
    while left := await asyncio.to_thread(_left, target, before, family, mark):
        seconds = time.monotonic() - killed
        expect(
            seconds < LEASE_S * target.slack, f"{stage}: {seconds:.1f} s after the kill: {', '.join(left)}"
        )
        await asyncio.sleep(0.02)
    return time.monotonic() - killed


def _wait_for_marks(driver: "subprocess.Popen[bytes]", number: int) -> None:
    assert driver.stdout is not None and driver.stderr is not None
    for _ in range(number):
        if driver.stdout.readline() != b"there\n":
            end_words = driver.stderr.read().decode(errors="replace")[-600:]
            raise Broken(f"a driver in a process of its own failed: {end_words}")


def _left(target: Target, before: frozenset[str], family: dict[int, int], mark: str) -> list[str]:
    family |= {child: start_time(child) for pid in list(family) for child in descendants(pid)}
    alive = [f"process {pid}" for pid, started in family.items() if is_alive(pid, started)]
    return [*alive, *_marked(mark), *sorted(target.view.everything() - before)]


def _marked(mark: str) -> list[str]:
    """Processes with this word in their command lines."""
    found: list[str] = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        with suppress(OSError):  # it has just ended
            if mark.encode() in Path(f"/proc/{name}/cmdline").read_bytes():
                found.append(f"process {name} (sleep {mark})")
    return found


@row(37, "what fails behind a sandbox is an error of its own kind, never a program's result", limit_s=120)
async def engine_faults(target: Target) -> str:
    at_open, under_call = target.view.open_faults(), target.view.call_faults()
    expect(bool(at_open or under_call), "this view names no fault to try: see View.open_faults, call_faults")
    words: list[str] = []
    for name, fault in at_open.items():
        words.append(f"{name}: {await _at_open(target, name, fault)}")
        await _works_again(target, name)
    for name, strike in under_call.items():
        words.append(f"{name}: {await _under_call(target, name, strike)}")
        await _works_again(target, name)
    return "; ".join(words)


async def _at_open(target: Target, name: str, fault: Callable[[], AbstractContextManager[object]]) -> str:
    with fault():
        try:
            result = await target.run(["sh", "-c", "echo whole"], timeout_s=20)
        except SandboxError as error:
            expect(bool(str(error)), f"{name}: {type(error).__name__} without a word")
            return type(error).__name__
        except Exception as error:  # whatever else it is, it is the finding
            raise Broken(f"{name}: {type(error).__name__}: {error}") from error
    expect(printed(result) == "whole", f"{name}: {told(result)}")
    return "overcome"


async def _under_call(target: Target, name: str, strike: Callable[[Sandbox], object]) -> str:
    async with target.box() as box:
        running = asyncio.create_task(box.run(["sh", "-c", "echo begun > begun; sleep 60"], timeout_s=60))
        await _until_programs_run(target)
        await asyncio.to_thread(strike, box)
        calls: list[Awaitable[object]] = [running, box.list(), box.run(["true"])]
        for call in calls:
            try:
                answer = await call
            except SandboxLost:
                continue
            raise Broken(f"{name}: a dead sandbox answered {answer!r:.200}")
        return "SandboxLost"


async def _until_programs_run(target: Target) -> None:
    until = time.monotonic() + 10
    while not await asyncio.to_thread(target.view.programs):
        expect(time.monotonic() < until, "a program of 60 s is not seen running")
        await asyncio.sleep(0.01)


async def _works_again(target: Target, name: str) -> None:
    """Whoever tries again has a sandbox soon."""
    until = time.monotonic() + RECOVERY_S * target.slack
    while True:
        try:
            result = await target.run(["sh", "-c", "echo again"], timeout_s=20)
        except SandboxError as error:
            why = f"after {name!r}, the next sandbox: {type(error).__name__}: {error}"
            expect(time.monotonic() < until, why)
            continue
        expect(printed(result) == "again", f"after {name!r}: {told(result)}")
        return


SLOTS = 8


@row(
    38,
    "many at once, half of them cancelled: none is left, none out of turn or charged for waiting",
    limit_s=120,
)
async def crowds(target: Target) -> str:
    count = target.size(24, 256)
    served: list[int] = []
    waited: list[float] = []

    async def one(number: int) -> bytes:
        lease = pool.lease()
        async with lease as box:
            served.append(number)
            waited.append(lease.queue_s)
            await box.write("in", str(number).encode())
            code = "import time; time.sleep(0.1); print(int(open('in').read()) * 2)"
            result = await box.run(["python3", "-c", code], timeout_s=LIMIT_S * target.slack)
            expect(result.ok, f"number {number}, after {lease.queue_s:.1f} s in the queue: {told(result)}")
            return result.stdout

    async with Pool(target.spec(), size=SLOTS, open=load_opener(target.opener)) as pool:
        tasks = [asyncio.create_task(one(number)) for number in range(count)]
        pauses = random.Random(38)
        for task in tasks[1::2]:
            await asyncio.sleep(pauses.uniform(0, 0.02))
            task.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
    for number, outcome in enumerate(done):
        fine = outcome == b"%d\n" % (2 * number)
        cancelled = number % 2 == 1 and isinstance(outcome, asyncio.CancelledError)
        expect(fine or cancelled, f"number {number} of {count} came to {outcome!r:.200}")
    expect(served == sorted(served), f"served out of turn: {served}")
    return f"{count} through {SLOTS} slots, half cancelled; the last waited {max(waited):.1f} s for its turn"
