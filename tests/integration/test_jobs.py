"""Long jobs, on every backend: streams, input, signals, ends."""

import asyncio
import hashlib
import signal
from collections.abc import Iterator
from functools import partial

import pytest
from any_box import first_process_mb, leaves_nothing, on_each_backend, own_mb, play, until_so
from sleepers import until, until_there

from palaestra.sandboxes import ExecStatus, Sandbox, SandboxLost
from palaestra.sandboxes._inside.job import WINDOW
from palaestra.sandboxes.job import Job


@pytest.fixture(autouse=True)
def _nothing_is_left(backend: str) -> Iterator[None]:
    yield from leaves_nothing(backend)


async def outputs(job: Job) -> tuple[bytes, bytes]:
    """All that a job writes to stdout and to stderr."""
    written = {"stdout": bytearray(), "stderr": bytearray()}
    async for chunk in job.chunks():
        written[chunk.stream] += chunk.data
    return bytes(written["stdout"]), bytes(written["stderr"])


# 50 MB, and in a file how many pieces of them were taken.
PIECE = 1 << 16
NUM_PIECES = 800
FLOOD = f"""
import hashlib, os
taken = os.open("taken", os.O_CREAT | os.O_WRONLY)
for n in range({NUM_PIECES}):
    piece = hashlib.sha256(b"%d" % n).digest() * ({PIECE} // 32)
    while piece: piece = piece[os.write(1, piece):]
    os.pwrite(taken, b"%6d" % n, 0)
"""


@on_each_backend
def test_a_job_that_nobody_reads_stops_and_one_that_is_read_loses_nothing(backend: str) -> None:
    async def part(box: Sandbox) -> None:
        own, inside = own_mb(), await first_process_mb(box)
        job = await box.start(["python3", "-c", FLOOD])
        seen: list[bytes] = []

        async def has_stopped() -> bool:
            seen.append(await box.read("taken") if "taken" in await box.list() else b"")
            return len(seen) > 25 and len({*seen[-25:]}) == 1 and seen[-1] != b""

        await until_so(has_stopped)
        # A window, a chunk, and two pipes: its own, and what it is writing.
        assert int(seen[-1]) * PIECE <= WINDOW + 3 * PIECE
        assert own_mb() - own < 8 and await first_process_mb(box) - inside < 8
        digest, size = hashlib.sha256(), 0
        async for chunk in job.chunks():
            digest.update(chunk.data)
            size += len(chunk.data)
        expected = hashlib.sha256()
        for n in range(NUM_PIECES):
            expected.update(hashlib.sha256(b"%d" % n).digest() * (PIECE // 32))
        assert (size, digest.digest()) == (NUM_PIECES * PIECE, expected.digest())
        assert own_mb() - own < 16 and await first_process_mb(box) - inside < 16
        assert (await job.wait()).ok

    play(backend, part)


@on_each_backend
def test_each_stream_of_a_job_comes_in_its_order(backend: str) -> None:
    code = "import os\nfor n in range(3000): os.write(1 + n % 2, (b'%d ' % n) * (n % 90))"
    lines = [(b"%d " % n) * (n % 90) for n in range(3000)]

    async def part(box: Sandbox) -> None:
        assert await outputs(await box.start(["python3", "-c", code])) == (
            b"".join(lines[0::2]),
            b"".join(lines[1::2]),
        )

    play(backend, part)


@on_each_backend
def test_input_is_sent_while_a_job_runs_and_ends_when_it_is_told(backend: str) -> None:
    async def part(box: Sandbox) -> None:
        job = await box.start(["cat"], stdin=None)
        chunks = job.chunks()
        for word in (b"one", b"two"):
            await job.send(word)
            assert (await anext(chunks)).data == word
        assert job.poll() is None
        large = bytes(range(256)) * 20_000
        sending = asyncio.ensure_future(job.send(large, is_last=True))
        rest = b"".join([chunk.data async for chunk in chunks])
        assert rest == large and (await job.wait()).ok
        await sending
        await job.send(b"to nobody")
        given = await box.start(["cat"], stdin=large)
        with pytest.raises(ValueError, match="stdin=None"):
            await given.send(b"more")
        assert await outputs(given) == (large, b"")

    play(backend, part)


@on_each_backend
def test_input_that_is_not_read_holds_nobody_up(backend: str) -> None:
    async def part(box: Sandbox) -> None:
        job = await box.start(["sh", "-c", "touch up; exec sleep 60"], stdin=None)
        sending = asyncio.ensure_future(job.send(bytes(3 << 20)))
        await until_there(box, "up")
        assert (await box.run(["echo", "beside"])).stdout == b"beside\n" and not sending.done()
        await job.kill()
        await asyncio.wait_for(sending, 10)

    play(backend, part)


CATCHES = "import time\nopen('up', 'w')\ntry: time.sleep(60)\nexcept KeyboardInterrupt: print('caught')"


@on_each_backend
def test_a_signal_reaches_the_process_group(backend: str) -> None:
    async def part(box: Sandbox) -> None:
        job = await box.start(["python3", "-c", CATCHES])
        await until_there(box, "up")
        await job.signal()
        assert await outputs(job) == (b"caught\n", b"") and (await job.wait()).ok
        shell = await box.start(["sh", "-c", "sleep 60 & touch two; wait"])
        await until_there(box, "two")
        await shell.signal(signal.SIGTERM)
        result = await shell.wait()
        assert (result.status, result.exit_code) == (ExecStatus.KILLED, None)
        await shell.signal()  # which nobody gets
        with pytest.raises(ValueError, match="number"):
            await shell.signal(99)
        for _ in range(20):
            new = await box.start(["sleep", "60"])
            await new.signal(signal.SIGKILL)
            assert (await new.wait()).status is ExecStatus.KILLED

    play(backend, part)


DAEMON = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        while True:
            open("beat", "a").write("x")
            time.sleep(0.01)
    os._exit(0)
time.sleep(60)
"""


@on_each_backend
def test_killing_a_job_ends_all_that_it_started(backend: str) -> None:
    async def part(box: Sandbox) -> None:
        job = await box.start(["python3", "-c", DAEMON])
        idle = await box.start(["sleep", "60"])
        await until_there(box, "beat")
        assert job.poll() is None
        result = await job.kill()
        assert (result.status, result.exit_code) == (ExecStatus.KILLED, None)
        beats = len(await box.read("beat"))
        assert result == job.poll() == await job.wait() == await job.kill()
        assert (await box.run(["sleep", "0.2"])).ok
        assert len(await box.read("beat")) == beats and idle.poll() is None

    play(backend, part)


@on_each_backend
def test_a_job_ends_by_itself_or_at_its_deadline_and_is_found_by_its_number(backend: str) -> None:
    async def part(box: Sandbox) -> None:
        job = await box.start(
            ["sh", "-c", "echo out; echo $WORD >&2; pwd >&2; exit 7"], env={"WORD": "x"}, cwd="/usr"
        )
        assert box.job(job.id) is job
        result = await job.wait()
        assert (result.status, result.exit_code, result.stdout) == (ExecStatus.NONZERO, 7, b"")
        assert result.wall_s > 0 and job.poll() == result and box.job(job.id) is job
        assert await outputs(job) == (b"out\n", b"x\n/usr\n")
        late = await box.start(["sh", "-c", "trap '' TERM INT; echo up; sleep 60"], timeout_s=0.3)
        result = await late.wait()
        assert result.status is ExecStatus.TIMEOUT and 0.3 <= result.wall_s < 0.3 + 5 * 0.25
        assert await outputs(late) == (b"up\n", b"")
        missing = await box.start(["no-such-program"])
        assert (await missing.wait()).exit_code == 127
        with pytest.raises(ValueError, match="no job 12345"):
            box.job(12345)

    play(backend, part)


@on_each_backend
def test_a_reader_that_was_cancelled_goes_on_where_it_was(backend: str) -> None:
    code = "import sys\nfor line in sys.stdin: print(line, end='', flush=True)"

    async def part(box: Sandbox) -> None:
        job = await box.start(["python3", "-c", code], stdin=None)
        read: list[bytes] = []

        def has_read(line: bytes) -> bool:
            return line in b"".join(read)

        async def reader() -> None:
            async for chunk in job.chunks():
                read.append(chunk.data)

        for n in range(5):
            reading = asyncio.ensure_future(reader())
            await job.send(b"%d\n" % n)
            await until(partial(has_read, b"%d\n" % n))
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
        assert b"".join(read) == b"0\n1\n2\n3\n4\n"
        # One that stops in its own work has not asked for the next: it gets the same again.
        await job.send(b"5\n", is_last=True)
        for _ in range(2):
            async for chunk in job.chunks():
                assert chunk.data == b"5\n"
                break
        assert await outputs(job) == (b"5\n", b"")

    play(backend, part)


@on_each_backend
def test_a_sandbox_that_is_closed_under_a_job_is_lost_to_it(backend: str) -> None:
    async def part(box: Sandbox) -> None:
        job = await box.start(["sh", "-c", "setsid sleep 60 & echo up; read line"], stdin=None)
        chunks = job.chunks()
        assert (await anext(chunks)).data == b"up\n"
        waiting, reading = asyncio.ensure_future(job.wait()), asyncio.ensure_future(outputs(job))
        sending = asyncio.ensure_future(job.send(bytes(3 << 20)))
        await asyncio.sleep(0)
        await box.close()
        for call in (waiting, reading, sending, job.kill(), job.signal(), box.start(["true"])):
            with pytest.raises(SandboxLost, match="closed"):
                await call
        assert job.poll() is None

    play(backend, part)
