"""What a flood of output costs the driver, measured in a process of its own."""

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest
from any_box import leaves_nothing, on_each_backend

CAP = 32 << 20
SIZE = 256 << 20
FLOODS = {
    "stdout": "head -c {size} /dev/zero",
    "stderr": "head -c {size} /dev/zero >&2",
    "both": "head -c {size} /dev/zero & head -c {size} /dev/zero >&2; wait",
}

DRIVER = r"""
import asyncio, json, re, sys
from palaestra.sandboxes import SandboxSpec, open_sandbox

def memory(field):
    return int(re.search(field + r":\s+(\d+) kB", open("/proc/self/status").read())[1]) << 10

async def main(backend, flood, cap):
    async with open_sandbox(SandboxSpec(backend=backend)) as box:
        assert (await box.run(["true"])).ok
        open("/proc/self/clear_refs", "w").write("5")  # its peak begins here
        before = memory("VmRSS")
        result = await box.run(["sh", "-c", flood], output_limit=cap, timeout_s=60)
        after = memory("VmHWM")
    sizes = [len(result.stdout) + result.omitted_stdout, len(result.stderr) + result.omitted_stderr]
    print(json.dumps([str(result.status), len(result.stdout), len(result.stderr), *sizes, after - before]))

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


@pytest.fixture(autouse=True)
def _nothing_is_left(backend: str) -> Iterator[None]:
    yield from leaves_nothing(backend)


@on_each_backend
@pytest.mark.parametrize("where", FLOODS)
def test_a_flood_costs_the_driver_little_more_than_what_it_keeps(backend: str, where: str) -> None:
    flood = FLOODS[where].format(size=SIZE)
    done = subprocess.run(
        [sys.executable, "-P", "-c", DRIVER, backend, flood, str(CAP)], capture_output=True, check=True
    )
    status, *kept_and_whole, growth = json.loads(done.stdout)
    on_stdout, on_stderr = where != "stderr", where != "stdout"
    assert (status, kept_and_whole) == (
        "ok",
        [CAP * on_stdout, CAP * on_stderr, SIZE * on_stdout, SIZE * on_stderr],
    )
    # Twice is what is promised. A reply is in memory once, so that it is little more than its size.
    assert growth < 1.25 * CAP * (on_stdout + on_stderr)
