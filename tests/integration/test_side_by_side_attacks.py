"""What a program does to the others of its sandbox: to their output, their answers and their end."""

import asyncio
from collections.abc import Iterator

import pytest
from any_box import first_process_mb, kill_first_process, leaves_nothing, on_each_backend, own_mb, play
from sleepers import until_there

from palaestra.sandboxes import ExecStatus, Sandbox, SandboxLost


@pytest.fixture(autouse=True)
def _nothing_is_left(backend: str) -> Iterator[None]:
    yield from leaves_nothing(backend)


STEALS = """
import fcntl, os, time
while not os.path.exists("pid"): time.sleep(0.01)
fd = os.open(f"/proc/{open('pid').read().strip()}/fd/1", os.O_WRONLY)
fcntl.fcntl(fd, 1031, 1 << 20)  # F_SETPIPE_SZ
for _ in range(4): os.fork()
open("stolen", "w").close()
while True: os.write(fd, bytes(1 << 16))
"""


@on_each_backend
def test_a_stranger_that_writes_into_a_run_s_output_does_not_keep_it_from_ending(backend: str) -> None:
    if backend == "landlock":
        pytest.skip("there a program sees no process but itself")

    async def part(box: Sandbox) -> None:
        thief = await box.start(["python3", "-c", STEALS])
        script = "echo $$ > .pid; mv .pid pid; until [ -e stolen ]; do sleep 0.01; done"
        result = await asyncio.wait_for(box.run(["sh", "-c", script]), 20)
        assert result.ok
        assert not (await asyncio.wait_for(thief.wait(), 10)).ok  # the pipe has broken

    play(backend, part, cpus=2)


@on_each_backend
def test_a_flood_from_the_background_does_not_keep_a_session_from_answering(backend: str) -> None:
    async def part(box: Sandbox) -> None:
        session = await box.python()
        await session.run("import subprocess\nflood = [subprocess.Popen('yes') for _ in range(12)]")
        for n in range(5):
            answer = await asyncio.wait_for(session.run(f"print('answer', {n})", output_limit=10**6), 20)
            assert answer.result.ok and not answer.is_lost
        await session.close()

    play(backend, part)


@on_each_backend
def test_a_first_process_that_is_killed_is_a_lost_sandbox_for_every_call(backend: str) -> None:
    async def part(box: Sandbox) -> None:
        await box.write("file", bytes(3 << 20))

        async def keep_reading() -> None:
            while True:
                await box.read("file")

        job = await box.start(["sh", "-c", "setsid sleep 60 & touch up; sleep 60"], stdin=None)
        keyed = box.run(["sh", "-c", "setsid sleep 60 & sleep 60"], timeout_s=60, key="k")
        calls = [
            asyncio.ensure_future(call)
            for call in (keyed, keep_reading(), job.wait(), job.send(bytes(3 << 20)))
        ]
        await until_there(box, "up")
        await kill_first_process(box)
        for call in calls:
            with pytest.raises(SandboxLost):
                await asyncio.wait_for(call, 10)
        with pytest.raises(SandboxLost):
            await anext(job.chunks())
        for after in (box.run(["true"]), box.list(), box.start(["true"]), job.signal(), job.kill()):
            with pytest.raises(SandboxLost):
                await after
        assert job.poll() is None

    play(backend, part)


LOUD = """
import os, threading
def shout():
    while True: os.write(3, bytes([120]) * (1 << 16))
threading.Thread(target=shout, daemon=True).start()
"""
LONG_ANSWER = """
import os, sys
os.write(3, sys._getframe(2).f_locals["nonce"] + b" " + b"9" * 5000 + bytes(1))
"""


@on_each_backend
def test_what_a_command_writes_where_answers_go_is_nobody_s_memory_and_no_crash(backend: str) -> None:
    async def part(box: Sandbox) -> None:
        session = await box.python()
        assert (await session.run(LONG_ANSWER)).result.exit_code == 0
        own, inside = own_mb(), await first_process_mb(box)
        await session.run(LOUD)
        await asyncio.sleep(1)  # nobody reads meanwhile
        assert own_mb() - own < 8 and await first_process_mb(box) - inside < 8
        late = await session.run("import time; time.sleep(60)", timeout_s=1)
        assert late.result.status is ExecStatus.TIMEOUT
        assert own_mb() - own < 8

    play(backend, part)


TURNCOAT = """
import os, resource, time
_, hard = resource.getrlimit(resource.RLIMIT_RTTIME)
for later in range(1, 6):
    if os.fork() == 0:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_RTTIME, (hard - later, hard - later))
        while True:
            open("alive", "a").write(".")
            time.sleep(0.01)
while not os.path.exists("go"): time.sleep(0.01)
"""


@on_each_backend
def test_a_daemon_that_passes_for_a_later_job_dies_with_its_own(backend: str) -> None:
    async def part(box: Sandbox) -> None:
        first = asyncio.ensure_future(box.run(["python3", "-c", TURNCOAT]))
        await until_there(box, "alive")
        later = [await box.start(["sleep", "60"]) for _ in range(5)]
        await box.write("go", b"")
        assert (await first).ok
        size = len(await box.read("alive"))
        await asyncio.sleep(0.2)
        assert len(await box.read("alive")) == size
        for job in later:
            assert job.poll() is None
            await job.kill()

    play(backend, part)


FORGER = """
import os, sys
parent = f"/proc/{os.getppid()}/fd"
pipes = []
for name in map(str, range(64)):
    try: pipes.append(os.open(f"{parent}/{name}", os.O_RDWR | os.O_NONBLOCK))
    except OSError: pass
for pipe in pipes:
    try: nonces = [word for word in os.read(pipe, 4096).split() if len(word) == 16]
    except OSError: continue
    for other in pipes if nonces else ():
        os.write(other, nonces[0] + b" 0\\0")
sys.exit(3)
"""


@on_each_backend
def test_a_program_in_a_shell_session_cannot_tell_its_exit_code_itself(backend: str) -> None:
    async def part(box: Sandbox) -> None:
        await box.write("forger.py", FORGER.encode())
        shell = await box.shell()
        for _ in range(3):
            assert (await shell.run("python3 forger.py")).result.exit_code == 3
        assert (await shell.run("echo next")).result.stdout == b"next\n"

    play(backend, part)
