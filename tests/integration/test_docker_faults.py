"""An engine that fails under our calls, and drivers that die between two of them."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import orphans
import pytest
from docker_box import GONE_S, engine, owned_by, wait_until_gone, with_owner
from engine_proxy import Fault, spoiled_engine
from processes import group
from sleepers import until
from support import require, run_async

from palaestra.sandboxes import SandboxLost, SandboxSpec
from palaestra.sandboxes._docker.engine import engine_address
from palaestra.sandboxes._docker.owner import host_label, owner_label
from palaestra.sandboxes._docker.reapers import reaper_at, stop_reapers
from palaestra.sandboxes.docker import DockerSandbox, create_docker_sandbox
from palaestra.sandboxes.pool import Pool

pytestmark = pytest.mark.docker
DOCKER = SandboxSpec(backend="docker")


@pytest.fixture(autouse=True)
def _engine_is_there() -> None:
    require("docker")


class Once:
    """A fault for the first request whose line has these words."""

    def __init__(self, words: str, fault: Fault, times: int = 1) -> None:
        self.words, self.fault, self.times = words, fault, times
        self.seen: list[str] = []

    def __call__(self, line: str) -> Fault | None:
        if self.words not in line:
            return None
        self.seen.append(line)
        return self.fault if len(self.seen) <= self.times else None


@contextmanager
def spoiling(
    choose: Callable[[str], Fault | None], path: Path, monkeypatch: pytest.MonkeyPatch
) -> Generator[None, None, None]:
    with spoiled_engine(path / "sock", choose) as address, monkeypatch.context() as patch:
        patch.setenv("DOCKER_HOST", address)
        try:
            yield
        finally:
            stop_reapers()  # while they can reach the engine


@pytest.mark.parametrize("fault", list(Fault), ids=lambda fault: fault.name)
@pytest.mark.parametrize("call", ["POST create", "POST start", "GET images"])
def test_a_call_that_fails_is_repeated_and_makes_one_container(
    call: str, fault: Fault, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    once = Once(
        {"POST create": "/containers/create?", "POST start": "/start ", "GET images": "/images/"}[call], fault
    )

    async def main() -> None:
        box = await create_docker_sandbox(DOCKER)
        assert (await box.run(["echo", "fine"])).stdout == b"fine\n"
        assert list(owned_by(os.getpid()).values()) == ["running"]
        await box.close()

    with spoiling(once, tmp_path, monkeypatch):
        run_async(main())
        assert len(once.seen) == 2
        assert not owned_by(os.getpid())


def test_an_engine_that_goes_on_failing_is_a_lost_sandbox_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with spoiling(Once("/start ", Fault.UNHEARD, times=99), tmp_path, monkeypatch):
        with pytest.raises(SandboxLost, match="on purpose"):
            run_async(create_docker_sandbox(DOCKER))
        assert not owned_by(os.getpid())


def test_a_pool_goes_on_after_an_engine_that_was_away(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def main() -> None:
        async with Pool(DOCKER, size=1, warm=0) as pool:
            async with pool.lease() as box:
                assert (await box.run(["true"])).ok
            os.rename(tmp_path / "sock", tmp_path / "away")
            waiting = asyncio.create_task(pool.lease().__aenter__())
            await until(lambda: pool.stats().num_failed_starts == 2)
            os.rename(tmp_path / "away", tmp_path / "sock")
            assert (await (await waiting).run(["true"])).ok

    with spoiling(lambda line: None, tmp_path, monkeypatch):
        run_async(main())


DRIVER = """
import asyncio, os, sys, threading, time
from palaestra.sandboxes import SandboxSpec
from palaestra.sandboxes._docker import containers, reapers
from palaestra.sandboxes.docker import create_docker_sandbox

def tell(*_):
    print("here", flush=True)
    time.sleep(600)

def fork_and_tell(*_):
    if os.fork() == 0:
        os.close(1)
        time.sleep(600)
    tell()

async def main():
    {before}
    box = await create_docker_sandbox(SandboxSpec(backend="docker"))
    print("here", flush=True)
    {after}
    await box.close()

asyncio.run(main())
"""


@contextmanager
def driver(before: str = "", after: str = "", **env: str) -> Generator["subprocess.Popen[bytes]", None, None]:
    """A driver in a process group of its own; what it leaves becomes ours."""
    code = DRIVER.format(before=before, after=after)
    with orphans.adopted():
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", code],
            stdout=subprocess.PIPE,
            env={**os.environ, **env},
            process_group=0,
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()


def heard(process: "subprocess.Popen[bytes]") -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == b"here\n"


def nothing_lives(known: set[int]) -> None:
    deadline = time.monotonic() + GONE_S
    while left := orphans.living(known):
        assert time.monotonic() < deadline, f"left behind: {left}"
        time.sleep(0.02)


def test_a_container_that_was_made_and_never_started_goes_with_its_driver() -> None:
    known = orphans.children()
    with driver(before="containers._attach = tell") as process:
        heard(process)
        assert list(owned_by(process.pid).values()) == ["created"]
        owner = owner_label(process.pid)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        wait_until_gone(owner)
        nothing_lives(known)


def test_a_container_that_the_engine_makes_after_the_drivers_death_is_waited_for(tmp_path: Path) -> None:
    asked, dead, started = threading.Event(), threading.Event(), time.time()

    def choose(line: str) -> None:
        if "/containers/create?" in line:
            time.sleep(0.3)  # the body follows the headers
            asked.set()
            dead.wait(30)
            time.sleep(0.3)

    known = orphans.children()
    address = f"unix://{tmp_path}/sock"
    with spoiled_engine(tmp_path / "sock", choose), driver(DOCKER_HOST=address) as process:
        assert asked.wait(30)
        owner = owner_label(process.pid)
        process.kill()
        process.wait()
        dead.set()
        wait_until_made(owner, started)
        nothing_lives(known)
        assert not with_owner(owner)


def wait_until_made(owner: str | None, since: float) -> None:
    """Until the engine has made a container of this owner, gone again or not."""
    filters = {"event": "create", "label": f"palaestra.owner={owner}"}
    deadline = time.monotonic() + GONE_S
    with engine() as api:
        while not list(api.events(since=int(since), until=int(time.time()) + 1, filters=filters)):
            assert time.monotonic() < deadline, "it never did: there is nothing to test"


def ignores(pid: int, number: int) -> bool:
    _, _, rest = Path(f"/proc/{pid}/status").read_text().partition("SigIgn:")
    return bool(int(rest.split()[0], 16) & 1 << (number - 1))


def test_signals_to_the_drivers_group_and_to_the_reaper_do_not_end_it() -> None:
    known = orphans.children()
    with driver(before="containers._attach = tell") as process:
        heard(process)
        owner = owner_label(process.pid)
        (reaper,) = orphans.children(process.pid)
        assert reaper not in group(process.pid)
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        run_async(until(lambda: all(ignores(reaper, number) for number in numbers)))
        held = {name: os.readlink(f"/proc/{reaper}/fd/{name}") for name in os.listdir(f"/proc/{reaper}/fd")}
        assert sorted(held) == ["0", "1", "2"] and held["1"] == held["2"] == "/dev/null"
        assert Path(f"/proc/{reaper}/environ").read_bytes() == b""
        for number in numbers:
            os.kill(reaper, number)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        wait_until_gone(owner)
        nothing_lives(known)


@pytest.mark.parametrize("after", ["", "os._exit(3)", "sys.exit(3)"])
def test_a_driver_that_ends_takes_its_reaper_along(after: str) -> None:
    known = orphans.children()
    with driver(after=after) as process:
        heard(process)
        owner = owner_label(process.pid)
        process.wait(30)
        wait_until_gone(owner)
        nothing_lives(known)


def test_a_fork_of_the_driver_does_not_keep_the_reaper_waiting() -> None:
    known = orphans.children()
    with driver(before="containers._attach = fork_and_tell") as process:
        heard(process)
        owner = owner_label(process.pid)
        process.kill()
        process.wait()
        try:
            wait_until_gone(owner)
            assert len(group(process.pid)) == 1  # the fork lives
        finally:
            os.killpg(process.pid, signal.SIGKILL)
        nothing_lives(known)


def test_a_reaper_that_was_killed_is_replaced_with_the_next_container() -> None:
    async def main() -> None:
        first = await create_docker_sandbox(DOCKER)
        reaper = reaper_at(address)
        os.kill(reaper.pid, signal.SIGKILL)
        second = await create_docker_sandbox(DOCKER)
        assert reaper_at(address).pid != reaper.pid
        assert isinstance(first, DockerSandbox)
        await asyncio.gather(first.close(), second.close())

    address = engine_address(import_module("docker"))
    run_async(main())


def labels(run: str | None) -> Any:
    env = {} if run is None else {"PALAESTRA_RUN": run}
    with driver(after="await asyncio.sleep(600)", **env) as process:
        heard(process)
        with engine() as api:
            owner = owner_label(process.pid)
            (found,) = api.containers(filters={"label": f"palaestra.owner={owner}"})
        process.kill()
        return process.pid, found["Labels"]


def test_labels_say_which_run_and_which_process_made_a_container() -> None:
    _, named = labels("quickstart")
    assert named["palaestra"] == "1" and named["palaestra.run"] == "quickstart"
    assert named["palaestra.host"] == host_label()
    pid, unnamed = labels(None)
    assert unnamed["palaestra.run"] == f"process-{pid}"
    assert f"/{pid}/" in unnamed["palaestra.owner"]
