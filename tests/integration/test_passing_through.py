"""What passes through a sandbox, however large, fills neither its memory nor the driver's."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator

import pytest
from any_box import first_process_mb, leaves_nothing, on_each_backend, play
from sleepers import until_there

from palaestra.sandboxes import ExecStatus, Sandbox

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


@on_each_backend
def test_files_and_input_that_are_large_against_the_memory_pass(backend: str) -> None:
    large = bytes(range(256)) * (40 << 12)  # 40 MiB
    count = "import sys\nn = 0\nwhile part := sys.stdin.buffer.read(1 << 16): n += len(part)\nprint(n)"

    async def part(box: Sandbox) -> None:
        before = await first_process_mb(box)
        await box.write("large", large)
        assert await box.read("large") == large
        await box.remove("large")
        counted = await box.run(["python3", "-c", count], stdin=large * 5, timeout_s=60)
        assert (counted.status, counted.stdout) == (ExecStatus.OK, b"%d\n" % (5 * len(large)))
        assert counted.max_rss_mb < 40 and await first_process_mb(box) - before < 8

    play(backend, part, memory_mb=128)


@on_each_backend
def test_a_fork_takes_along_files_of_more_than_half_the_memory(backend: str) -> None:
    content = bytes(range(256)) * (10 << 12)  # 10 MiB

    async def part(box: Sandbox) -> None:
        for n in range(7):
            await box.write(f"{n}", content)
        await box.run(["sh", "-c", "mkdir -m 700 d; ln -s ../0 d/link; chmod 755 0; cp -p 0 d/copy; rm 6"])
        twin = await box.fork()
        try:
            assert await twin.list() == ["0", "1", "2", "3", "4", "5", "d/"]
            assert await twin.read("5") == content
            shown = await twin.run(["sh", "-c", "readlink d/link; ls -ld d 0 | cut -c1-10"])
            assert shown.stdout == b"../0\n-rwxr-xr-x\ndrwx------\n"
        finally:
            await twin.close()

    play(backend, part, memory_mb=128)


@on_each_backend
def test_what_another_run_writes_is_no_memory_of_a_new_one(backend: str) -> None:
    async def part(box: Sandbox) -> None:
        flood = ["sh", "-c", "head -c 60000000 /dev/zero; touch up; sleep 60"]
        flooding = asyncio.ensure_future(box.run(flood, output_limit=48 << 20, timeout_s=60))
        await until_there(box, "up")
        beside = await box.run(["python3", "-c", "pass"])
        assert beside.ok and beside.max_rss_mb < 40
        flooding.cancel()

    play(backend, part, memory_mb=256)
