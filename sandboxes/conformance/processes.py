"""Programs that multiply, leave others behind, or turn on who supervises them."""

import asyncio
import time
from collections.abc import Sequence

from ..sandbox import ExecStatus, Sandbox
from .row import ended, expect, printed, row, told
from .target import SMALL, Target

BOMBS: dict[str, Sequence[str]] = {
    "bash": ("bash", "-c", ":(){ :|:& };:"),
    "python": ("python3", "-c", "import os\nwhile True: os.fork()"),
    "vfork": (
        *("python3", "-c"),
        "import subprocess\nkept = [subprocess.Popen(['sleep', '9']) for _ in range(999)]",
    ),
}
LASTING_BOMB = """
import os, sys, time
until = time.monotonic() + float(sys.argv[1])
while time.monotonic() < until:
    try: os.fork()
    except OSError: pass
os._exit(0)
"""
THREADS = """
import threading, time
while True: threading.Thread(target=time.sleep, args=(9,), daemon=True).start()
"""


@row(1, "a fork bomb meets the process limit, and the neighbours hardly feel it")
async def fork_bombs(target: Target) -> str:
    async with target.box() as box, target.box() as neighbour:
        for name, bomb in BOMBS.items():
            result = await box.run(bomb, timeout_s=40)
            shell = (ExecStatus.OK, ExecStatus.NONZERO) if name == "bash" else ()
            ended(result, ExecStatus.PIDS, *shell, name=name)
            await _all_gone(target, name)
            # Nothing of it is left to disturb the next program.
            forked = printed(await box.run(["python3", "-c", "import os; print(os.fork() >= 0)"]))
            expect(forked.startswith("True"), f"after {name}, a program could not fork")
        words = await _neighbour_of_a_bomb(target, box, neighbour)
        await _all_gone(target, "lasting bomb")
    return f"{', '.join(BOMBS)} under a limit of {SMALL['pids']}; {words}"


async def _neighbour_of_a_bomb(target: Target, box: Sandbox, neighbour: Sandbox) -> str:
    seconds = target.size(1, 5)
    before = await _p95(neighbour, 40)
    bomb = asyncio.create_task(box.run(["python3", "-c", LASTING_BOMB, str(seconds)], timeout_s=30))
    await asyncio.sleep(0.3 * seconds)  # by now it is full
    most = len(await asyncio.to_thread(target.view.programs))
    during = await _p95(neighbour, 10_000, bomb)
    ended(await bomb, ExecStatus.PIDS, ExecStatus.OK, name="a bomb that lasts")
    calm = max(before, await _p95(neighbour, 40))
    expect(most <= SMALL["pids"] + 1, f"{most} processes lived at one time under a limit of {SMALL['pids']}")
    expect(
        during < 2 * target.slack * calm,
        f"the 95th percentile of a neighbour's run went from {calm * 1e3:.1f} to {during * 1e3:.1f} ms",
    )
    return f"{most} at most lived; a neighbour's p95 went from {calm * 1e3:.1f} to {during * 1e3:.1f} ms"


async def _p95(box: Sandbox, most: int, task: "asyncio.Task[object] | None" = None) -> float:
    """Seconds of a run of /bin/true, over `most` of them or while `task` goes on."""
    times: list[float] = []
    while len(times) < most and not (task is not None and task.done()):
        started = time.perf_counter()
        await box.run(["true"])
        times.append(time.perf_counter() - started)
    return sorted(times)[int(0.95 * len(times))] if times else 0.0


async def _all_gone(target: Target, name: str) -> None:
    seconds = await target.seconds_until_no_program()
    expect(seconds <= 0.25 * target.slack, f"{name}: its processes lived for {seconds:.2f} s more")


@row(2, "a thread bomb meets the same limit")
async def thread_bomb(target: Target) -> str:
    async with target.box() as box:
        ended(await box.run(["python3", "-c", THREADS], timeout_s=20), ExecStatus.PIDS, name="the bomb")
        await _all_gone(target, "the bomb")
    return f"threads without end under a limit of {SMALL['pids']}"


DAEMON = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(0.2)
        open("late", "w").close()
        time.sleep(60)
    os._exit(0)
os.write(1, b"parent is done")
"""


@row(13, "a daemon that holds standard output does not hold the call, and dies with it")
async def daemons(target: Target) -> str:
    async with target.box() as box:
        result = await box.run(["python3", "-c", DAEMON], timeout_s=20)
        expect(result.ok and result.stdout == b"parent is done", told(result))
        expect(result.wall_s < 1 * target.slack, f"the call took {result.wall_s:.1f} s, its parent none")
        await _nothing_late(target, box)
        words = await _only_jobs_stay(target, box)
    return f"setsid and two forks; the call ended with its parent; {words}"


async def _only_jobs_stay(target: Target, box: Sandbox) -> str:
    """What `start` was asked for lives through the end of other calls, and what they left does not."""
    if not box.capabilities().jobs:
        return "no jobs here"
    job = await box.start(["sh", "-c", "echo up; exec sleep 77"])
    chunks = job.chunks()
    up = await anext(chunks)
    expect(up.data == b"up\n", f"a job's first words are {up}")
    expect((await box.run(["python3", "-c", DAEMON], timeout_s=20)).ok, "a daemon beside a job")
    left = await asyncio.to_thread(target.view.programs)
    expect(len(left) == 1 and job.poll() is None, f"a job and nothing else should live: {', '.join(left)}")
    ended(await job.kill(), ExecStatus.KILLED, name="a job that is killed")
    await _nothing_late(target, box)
    return "beside a job too, which lived until it was killed"


LEFT_BEHIND: dict[str, Sequence[str]] = {
    "shell": ("sh", "-c", "(sleep 0.2; echo x > late) & setsid nohup sleep 61 >/dev/null 2>&1 & echo x"),
    "child": ("python3", "-c", "import subprocess; subprocess.Popen(['sh', '-c', 'sleep 0.2; echo > late'])"),
    "closed": (
        *("python3", "-c"),
        "import os, time\nif os.fork() == 0:\n os.closerange(0, 9); time.sleep(0.2); open('late', 'w')",
    ),
}


@row(14, "a child that outlives its program is dead before the result is there")
async def orphans(target: Target) -> str:
    async with target.box() as box:
        for name, argv in LEFT_BEHIND.items():
            expect((result := await box.run(argv, timeout_s=20)).ok, f"{name}: {told(result)}")
            await _nothing_late(target, box)
        if box.capabilities().jobs:
            job = await box.start(["python3", "-c", DAEMON])
            said = b"".join([chunk.data async for chunk in job.chunks()])
            expect((await job.wait()).ok and said == b"parent is done", f"a job: {said!r}")
            await _nothing_late(target, box)
    return ", ".join(LEFT_BEHIND)


async def _nothing_late(target: Target, box: Sandbox) -> None:
    left = await asyncio.to_thread(target.view.programs)
    expect(not left, f"still alive after the result: {', '.join(left)}")
    printed(await box.run(["sleep", "0.35"]))
    expect(await box.list() == [], f"written after the result: {await box.list()}")


FORGE = """
import ctypes, os, signal, sys
supervisor = os.getppid()
libc = ctypes.CDLL(None, use_errno=True)
for number in set(range(1, 32)) - {signal.SIGCHLD}:
    for target in (supervisor, 1):
        try: os.kill(target, number)
        except OSError: pass
try: os.kill(-1, signal.SIGTERM)
except OSError: pass
for request in (16, 0x4206):
    if libc.ptrace(request, supervisor, 0, 0) != -1: print("traced by", request)
buffer = ctypes.create_string_buffer(64)
part = (ctypes.c_uint64 * 2)(ctypes.addressof(buffer), 64)
for call in (310, 311):
    arguments = map(ctypes.c_long, (supervisor, ctypes.addressof(part), 1, ctypes.addressof(part), 1, 0))
    if libc.syscall(call, *arguments) != -1: print("memory by", call)
    elif ctypes.get_errno() not in (1, 3): print("call", call, "says", ctypes.get_errno())
for fd in range(3, 64):
    try: os.write(fd, b'{"seq": 1, "status": "ok", "exit_code": 0}'); print("wrote to", fd)
    except OSError: pass
for name in ("mem", "environ", "maps", "fd", "fd/0", "fd/3", "cwd/", "root/", "oom_score_adj"):
    for mode in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):
        if (name, mode) == ("oom_score_adj", os.O_RDONLY): continue
        try: os.close(os.open(f"/proc/{supervisor}/{name}", mode)); print("opened", name)
        except OSError: pass
print('{"seq": 1, "status": "ok", "exit_code": 0}')
sys.exit(3)
"""


@row(24, "a program can neither harm, trace nor read its supervisor, nor forge its result")
async def against_the_supervisor(target: Target) -> str:
    async with target.box() as box:
        for start in (["python3"], ["env", "python3"]):
            result = await box.run([*start, "-c", FORGE], timeout_s=20)
            said = b'{"seq": 1, "status": "ok", "exit_code": 0}\n'
            expect(result.exit_code == 3 and result.stdout == said, told(result))
            ended(result, ExecStatus.NONZERO, name="the forger")
    return "every signal, kill(-1), ptrace, process_vm_readv, its files; the exit code was the true one"
