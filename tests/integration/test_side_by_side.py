"""Many calls on one sandbox at a time, on every backend: each answers for itself."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from any_box import leaves_nothing, on_each_backend, play, until_so
from sleepers import until_there

from palaestra.sandboxes import ExecResult, ExecStatus, Sandbox


@pytest.fixture(autouse=True)
def _nothing_is_left(backend: str) -> Iterator[None]:
    yield from leaves_nothing(backend)


@on_each_backend
def test_a_run_has_its_own_variables_and_directory(backend: str) -> None:
    show = 'echo "$COLOUR $SHAPE"; pwd'

    async def part(box: Sandbox) -> None:
        home = (await box.run(["pwd"])).stdout
        await box.write("below/file", b"")
        ran = await box.run(["sh", "-c", show], env={"SHAPE": "caf\u00e9=\n"}, cwd="below")
        assert ran.stdout == "green caf\u00e9=\n\n".encode() + home.rstrip() + b"/below\n"
        ran = await box.run(["sh", "-c", show], env={"COLOUR": "red"}, cwd="/usr")
        assert ran.stdout == b"red \n/usr\n"
        code = "import os, time; print(os.environ['COLOUR'], os.getcwd(), time.tzname)"
        forked = await box.run(["python3", "-c", code], cwd="/usr")
        assert forked.stdout == b"green /usr ('UTC', 'UTC')\n"
        executed = await box.run(["python3", "-c", code], cwd="/usr", env={"TZ": "XYZ-5"})
        assert executed.stdout == b"green /usr ('XYZ', 'XYZ')\n"
        assert (await box.run(["sh", "-c", show])).stdout == b"green \n" + home
        for missing in ("none", "below/file", "/root/x"):
            refused = await box.run(["true"], cwd=missing)
            assert refused.exit_code == 126 and f"sandbox: cwd {missing}: ".encode() in refused.stderr
        wrong: list[dict[str, Any]] = [
            {"env": {"A=B": "x"}},
            {"env": {"A": "\0"}},
            {"cwd": ""},
            {"cwd": "a\0"},
        ]
        for options in wrong:
            with pytest.raises(ValueError, match=next(iter(options))):
                await box.run(["true"], **options)

    play(backend, part, env={"COLOUR": "green"})


@on_each_backend
def test_a_key_is_run_once_whatever_becomes_of_the_first_call(backend: str) -> None:
    count = ["sh", "-c", "echo once >> log; until [ -e go ]; do sleep 0.01; done; echo $$"]

    async def part(box: Sandbox) -> None:
        first = asyncio.ensure_future(box.run(count, key="a"))
        await until_there(box, "log")
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        again = [asyncio.ensure_future(box.run(count, key="a")) for _ in range(3)]
        await asyncio.sleep(0)
        await box.write("go", b"")
        results = await asyncio.gather(*again, box.run(tuple(count), key="a"))
        assert results[0].ok and all(result == results[0] for result in results)
        assert await box.read("log") == b"once\n"
        with pytest.raises(ValueError, match="key='a'"):
            await box.run([*count, "x"], key="a")
        others: list[dict[str, Any]] = [{"stdin": b"x"}, {"env": {"X": "1"}}, {"cwd": "/"}]
        for other in others:
            with pytest.raises(ValueError, match="key='a'"):
                await box.run(count, key="a", **other)
        assert (await box.run(count, key="b")).stdout != results[0].stdout
        assert await box.read("log") == b"once\nonce\n"

    play(backend, part)


WITH_DAEMON = """
import os, sys, time
name = sys.argv[1]
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        while True:
            with open("beat-" + name, "a") as file: file.write("x")
            time.sleep(0.02)
    os._exit(0)
os.wait()
until = "go-" + name if sys.argv[2:] else "beat-" + name
while not os.path.exists(until): time.sleep(0.01)
"""


@on_each_backend
def test_the_end_of_one_takes_its_own_daemons_and_nobody_else_s(backend: str) -> None:
    async def part(box: Sandbox) -> None:
        async def beats(name: str) -> int:
            return len(await box.read(f"beat-{name}"))

        async def is_alive(name: str) -> None:
            before = await beats(name)

            async def has_grown() -> bool:
                return await beats(name) > before

            await until_so(has_grown)

        def start(name: str, *wait: str) -> "asyncio.Future[ExecResult]":
            return asyncio.ensure_future(box.run(["python3", "-c", WITH_DAEMON, name, *wait], timeout_s=60))

        job = await box.start(["python3", "-c", WITH_DAEMON, "job", "wait"])
        long = start("long", "wait")
        await asyncio.gather(until_there(box, "beat-job"), until_there(box, "beat-long"))
        short = await asyncio.gather(*(start(str(n)) for n in range(19)))
        assert all(result.ok for result in short), short
        dead = [await beats(str(n)) for n in range(19)]
        await is_alive("long")
        await is_alive("job")
        await box.write("go-long", b"")
        assert (await long).ok
        dead.append(await beats("long"))
        await is_alive("job")
        assert [await beats(name) for name in (*map(str, range(19)), "long")] == dead
        assert job.poll() is None and (await job.kill()).status is ExecStatus.KILLED

    play(backend, part, pids=96)


@on_each_backend
def test_the_orphans_of_a_job_that_waits_for_none_do_not_fill_the_process_limit(backend: str) -> None:
    code = """
import os, time
for n in range(200):
    if os.fork() == 0:
        os.fork()
        os._exit(0)
    os.waitpid(-1, 0)
print("done")
"""

    async def part(box: Sandbox) -> None:
        job = await box.start(["python3", "-c", code])
        assert [chunk.data async for chunk in job.chunks()] == [b"done\n"]
        assert (await job.wait()).ok

    play(backend, part, pids=24)


HUNGRY = "kept = []\nwhile True: kept.append(b'x' * (1 << 20))"
MANY = (
    "import os, time\nfor _ in range(8):\n if os.fork() == 0: time.sleep(60)\nopen('up', 'w'); time.sleep(60)"
)


@on_each_backend
def test_who_takes_the_memory_answers_for_it_and_the_others_go_on(backend: str) -> None:
    async def part(box: Sandbox) -> None:
        job = await box.start(["python3", "-c", MANY])
        await until_there(box, "up")
        waits = "until [ -e go ]; do sleep 0.01; done; echo late >&2; exit "
        others = [asyncio.ensure_future(box.run(["sh", "-c", waits + code])) for code in ("0", "5")]
        for hungry in (["python3", "-c", HUNGRY], ["sh", "-c", 'python3 -c "$0"; exit 1', HUNGRY]):
            assert (await box.run(hungry)).status is ExecStatus.OOM
        await box.write("go", b"")
        fine, wrong = await asyncio.gather(*others)
        assert fine.ok and (wrong.status, wrong.exit_code) == (ExecStatus.NONZERO, 5)
        assert job.poll() is None and (await job.kill()).status is ExecStatus.KILLED
        assert (await box.run(["true"])).ok

    play(backend, part, memory_mb=160)


@on_each_backend
def test_where_no_process_fits_any_more_a_run_is_told_and_the_sandbox_goes_on(backend: str) -> None:
    code = "import os, time\ntry:\n while os.fork(): pass\nexcept OSError: open('up', 'w')\ntime.sleep(60)"

    async def part(box: Sandbox) -> None:
        job = await box.start(["python3", "-c", code])
        await until_there(box, "up")
        for refused in await asyncio.gather(*(box.run(["python3", "-c", "1"], stdin=b"x") for _ in range(3))):
            assert (refused.status, refused.exit_code) == (ExecStatus.PIDS, None), refused
            assert b"no room for another program" in refused.stderr
        second = await box.start(["true"])
        assert (await second.wait()).status is ExecStatus.PIDS
        assert job.poll() is None
        await job.kill()
        assert (await box.run(["python3", "-c", "print(1)"])).stdout == b"1\n"

    play(backend, part, pids=12)


@on_each_backend
def test_more_runs_at_once_than_a_program_may_have_descriptors(backend: str) -> None:
    async def part(box: Sandbox) -> None:
        reads = "import sys, time; sys.stdin.read(); print('ok')"
        jobs = [await box.start(["python3", "-c", reads], stdin=None) for _ in range(100)]
        for job in jobs:
            await job.send(b"x", is_last=True)
        assert {(await job.wait()).status for job in jobs} == {ExecStatus.OK}

    play(backend, part, pids=150, memory_mb=1024)
