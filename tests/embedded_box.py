"""What the tests of the embedded sandboxes share: the tiers, one call, and a look at what is left behind."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from support import run_async

from palaestra.sandboxes import ExecResult, Sandbox, SandboxSpec, open_sandbox
from palaestra.sandboxes._embedded.zygotes import zygote
from palaestra.sandboxes.selftest import self_test

T = TypeVar("T")
TIERS = ("namespaces", "landlock")
on_each_tier = pytest.mark.parametrize("tier", TIERS)


def play(tier: str, part: Callable[[Sandbox], Awaitable[T]], **limits: Any) -> T:
    """Play `part` in a sandbox of this tier, on an event loop of its own."""

    async def whole() -> T:
        async with open_sandbox(SandboxSpec(backend=tier, **limits)) as box:
            return await part(box)

    return run_async(whole())


def run(tier: str, argv: list[str], *, limits: dict[str, Any] | None = None, **options: Any) -> ExecResult:
    """Run one program in a sandbox of its own."""

    async def part(box: Sandbox) -> ExecResult:
        return await box.run(argv, **options)

    return play(tier, part, **(limits or {}))


def python(tier: str, code: str, *args: str, **options: Any) -> ExecResult:
    return run(tier, ["python3", "-c", code, *args], **options)


def printed(result: ExecResult) -> str:
    """What a program printed, after making sure that it ended well."""
    assert result.ok, f"{result.status} {result.exit_code}: {result.stderr.decode(errors='replace')}"
    return result.stdout.decode().strip()


def need(tier: str) -> None:
    """Skip, with the reason, where this machine has no such tier."""
    test = asyncio.run(self_test(tier))
    if not test.ok:
        pytest.skip(f"no {tier} tier here: {dict(test.walls)}")


def leaves_nothing(tier: str) -> Iterator[None]:
    """The body of a fixture: skips without the tier; afterwards no process, mount or directory is left."""
    need(tier)
    before = mounts()
    yield
    keeper = zygote(tier)
    until = time.monotonic() + 10
    while left := (_children(keeper.pid), directories()):
        if not any(left):
            break
        assert time.monotonic() < until, f"left behind: {left}"
        time.sleep(0.01)
    assert mounts() == before


def mounts() -> list[str]:
    """What is mounted on the host, but for a Docker engine's containers, which come and go by themselves."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line for line in lines if "/docker/" not in line]


def _children(pid: int) -> str:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text()


def directories() -> list[str]:
    """Workspaces on the host that sandboxes of this process's pid namespace own, but for those of tests that
    run beside these in another worker of pytest-xdist."""
    mark = f"palaestra-{os.stat('/proc/self/ns/pid').st_ino}-"
    names = [name for base in ("/dev/shm", "/tmp") for name in os.listdir(base) if name.startswith(mark)]
    return [name for name in names if not _is_of_another_worker(int(name.split("-")[2]))]


def _is_of_another_worker(pid: int) -> bool:
    """Whether a process descends from the one that started this worker, and not from this worker."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return False
    while pid > 1 and pid not in (os.getpid(), os.getppid()):
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except FileNotFoundError:  # whose it was cannot be told any more
            return False
    return pid == os.getppid()
