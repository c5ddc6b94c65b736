"""kill -9 of a driver at any moment of a run with many sandboxes: soon nothing of it is left.

A seed decides what the driver does and when it is killed; the test's name has it, to be run again.
"""

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import orphans
import pytest
from docker_box import GONE_S, with_owner
from embedded_box import TIERS, directories, mounts, need
from sleepers import SLEEP, sleepers
from support import require

from palaestra.sandboxes._docker.owner import owner_label

DRIVER = Path(__file__).parents[1] / "kill_driver.py"


def seeds(smoke: int, whole: int) -> list[object]:
    """The first few in every run, as many as the bar says in acceptance."""
    later = [pytest.param(seed, marks=pytest.mark.acceptance) for seed in range(smoke, smoke + whole)]
    return [*range(smoke), *later]


def kill_at_random(seed: int, num_boxes: int, *backends: str, within_s: float) -> str:
    """Start a driver and kill it; the label of its containers."""
    rng = random.Random(seed)
    argv = [sys.executable, "-P", str(DRIVER), str(seed), str(num_boxes), SLEEP, *backends]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, start_new_session=True) as driver:
        assert driver.stdout is not None
        owner = owner_label(driver.pid)
        assert owner is not None
        # One in four is killed while it gets ready: interpreter, self-test, first sandboxes.
        if seed % 4 and not driver.stdout.readline():
            pytest.fail(f"the driver ended by itself: {driver.wait()}")
        os.set_blocking(driver.stdout.fileno(), False)
        until = time.monotonic() + rng.uniform(0, within_s)
        while time.monotonic() < until:
            time.sleep(0.005)
            with suppress(BlockingIOError):
                os.read(driver.stdout.fileno(), 1 << 16)
        assert driver.poll() is None, "the driver ended by itself"
        driver.kill()
    return owner


def seconds_until_nothing(left: Callable[[], object]) -> float:
    """Fails with what is left."""
    started = time.monotonic()
    while found := left():
        assert time.monotonic() < started + GONE_S, f"left behind: {found}"
        time.sleep(0.01)
    return time.monotonic() - started


@pytest.mark.parametrize("seed", seeds(5, 200))
def test_a_killed_driver_of_64_embedded_sandboxes_leaves_nothing(seed: int) -> None:
    for tier in TIERS:
        need(tier)
    mounted, known = set(mounts()), orphans.children()
    with orphans.adopted():
        kill_at_random(seed, 64, *TIERS, within_s=1.5)
        took = seconds_until_nothing(
            lambda: orphans.living(known) + directories() + [f"program {pid}" for pid in sleepers()]
        )
    assert not set(mounts()) - mounted
    print(f"seed {seed}: everything was gone after {took:.2f} s")


@pytest.mark.docker
@pytest.mark.parametrize("seed", seeds(3, 20))
def test_a_killed_driver_of_8_containers_leaves_nothing(seed: int) -> None:
    require("docker")
    known = orphans.children()
    with orphans.adopted():
        owner = kill_at_random(seed, 8, "docker", within_s=4.0)

        # First the reaper: a container that it did not wait for would come to light after it has gone.
        took = seconds_until_nothing(lambda: orphans.living(known) + [f"program {pid}" for pid in sleepers()])
        took += seconds_until_nothing(lambda: with_owner(owner))
    print(f"seed {seed}: everything was gone after {took:.2f} s")
