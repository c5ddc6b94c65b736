"""What tests of every backend share: a sandbox of each kind, its first process, a look at what is left."""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import embedded_box
import pytest
from docker_box import engine
from embedded_box import TIERS, play
from support import require

from palaestra.sandboxes import Sandbox
from palaestra.sandboxes._docker import owner
from palaestra.sandboxes._embedded.zygotes import zygote
from palaestra.sandboxes.docker import DockerSandbox
from palaestra.sandboxes.local import LocalSandbox

T = TypeVar("T")

__all__ = [
    "first_process_mb",
    "kill_first_process",
    "leaves_nothing",
    "on_each_backend",
    "own_mb",
    "play",
    "until_so",
]

on_each_backend = pytest.mark.parametrize(
    "backend", [*TIERS, pytest.param("docker", marks=pytest.mark.docker)]
)


def leaves_nothing(backend: str) -> Iterator[None]:
    """The body of a fixture: skips without the backend; afterwards nothing of it is left."""
    if backend != "docker":
        yield from embedded_box.leaves_nothing(backend)
        return
    require("docker")
    yield
    ours = {"label": f"{owner.LABEL}.owner={owner.our_label()}"}
    deadline = time.monotonic() + 10
    with engine() as api:
        while left := api.containers(all=True, filters=ours):
            assert time.monotonic() < deadline, f"left behind: {left}"
            time.sleep(0.05)


def _first_process(box: LocalSandbox) -> int:
    """The supervisor of the only sandbox of its tier, as the host numbers it."""
    keeper = zygote(box.tier).pid
    children = Path(f"/proc/{keeper}/task/{keeper}/children")
    deadline = time.monotonic() + 5
    while len(found := children.read_text().split()) > 1:  # one that is parked, and leaves soon
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return int(found[0])


def _resident_mb(status: str) -> float:
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def _status(pid: int) -> str:
    return Path(f"/proc/{pid}/status").read_text()


async def first_process_mb(box: Sandbox) -> float:
    """Memory of what serves the sandbox from inside."""
    if isinstance(box, LocalSandbox):
        return _resident_mb(_status(_first_process(box)))
    return _resident_mb((await box.run(["cat", "/proc/1/status"])).stdout.decode())


def own_mb() -> float:
    """Memory of this process."""
    return _resident_mb(_status(os.getpid()))


async def kill_first_process(box: Sandbox) -> None:
    if isinstance(box, LocalSandbox):
        os.kill(_first_process(box), signal.SIGKILL)
        return
    assert isinstance(box, DockerSandbox)
    with engine() as api:
        await asyncio.to_thread(api.kill, box.container)


async def until_so(condition: Callable[[], Awaitable[Any]]) -> None:
    """Wait until what `condition` returns is true; fails after ten seconds."""
    deadline = time.monotonic() + 10
    while not await condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
