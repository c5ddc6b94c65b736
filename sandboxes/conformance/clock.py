"""Programs that do not want to end, and programs that play with time or processors."""

import os

from ..sandbox import ExecStatus
from .row import expect, held, printed, row, told
from .target import Target

LIMIT_S = 0.3
EARLY_S = 0.01
"""A program's clock and that of its limit start on two sides of a fork."""
LATE_S = 0.25
"""How long after its limit a program may still be there."""

IGNORING = """
import os, signal
for number in set(range(1, 65)) - {9, 19, 32, 33}: signal.signal(number, signal.SIG_IGN)
"""
LOOPS = {
    "loop": "while True: pass",
    "ignores every signal": IGNORING + "while True: pass",
    "daemons that do": IGNORING + "for _ in range(5):\n if os.fork() == 0:\n  os.setsid()\n  os.fork()\n"
    "  while True: pass\nwhile True: pass",
    "writes all the time": "import os\nwhile True: os.write(1, b'x' * 65536)",
}
SLEEPS = {
    "stops itself": "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)",
    "all stop": "import os, signal; os.fork(); os.fork(); os.kill(os.getpid(), signal.SIGSTOP)",
    "blocks every signal": "import signal, time\n"
    "signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65)); time.sleep(60)",
    # The parent of a vfork waits in the kernel, state D, until its child has gone.
    "waits in the kernel": "import ctypes, time; ctypes.CDLL(None).vfork(); time.sleep(60)",
}


async def _all_time_out(target: Target, programs: dict[str, str]) -> str:
    latest = 0.0
    async with target.box() as box:
        for name, code in programs.items():
            result = await box.run(["python3", "-c", code], timeout_s=LIMIT_S)
            is_timeout = (result.status, result.exit_code) == (ExecStatus.TIMEOUT, None)
            expect(is_timeout, f"{name}: {told(result)}")
            late_s = result.wall_s - LIMIT_S
            fine = -EARLY_S <= late_s < LATE_S * target.slack
            expect(fine, f"{name} ended {late_s:.3f} s after its limit")
            gone_s = await target.seconds_until_no_program()
            expect(gone_s < LATE_S * target.slack, f"{name}: processes lived for {gone_s:.2f} s more")
            latest = max(latest, late_s)
        expect((await box.run(["true"])).ok, "afterwards the sandbox runs nothing more")
    return f"{', '.join(programs)}: ended at most {latest * 1e3:.0f} ms after the limit"


@row(11, "a loop that ignores every signal is a timeout, on time")
async def endless_loops(target: Target) -> str:
    return await _all_time_out(target, LOOPS)


@row(12, "a program that stops itself, or waits in the kernel, is a timeout, on time")
async def endless_sleeps(target: Target) -> str:
    return await _all_time_out(target, SLEEPS)


CLOCKS = """
import ctypes, errno, time
libc = ctypes.CDLL(None, use_errno=True)
now = (ctypes.c_long * 2)(1_000_000_000, 0)
adjust = (ctypes.c_long * 26)(); adjust[0] = 0x100
for name, number, *arguments in (("clock_settime", 227, 0, now), ("settimeofday", 164, now, None),
                                 ("adjtimex", 159, adjust), ("clock_adjtime", 305, 0, adjust)):
    ctypes.set_errno(0)
    if libc.syscall(number, *arguments) != -1: print(name, "worked")
    elif ctypes.get_errno() != errno.EPERM: print(name, "says", errno.errorcode[ctypes.get_errno()])
if abs(time.time() - START) > 3600: print("the clock moved")
print("done")
"""
FAKED = """
import time
time.time = time.monotonic = time.perf_counter = lambda: 0.0
time.sleep = lambda seconds: None
while True: time.sleep(1)
"""


@row(28, "no program sets the clock, and limits go by the driver's")
async def clocks(target: Target) -> str:
    async with target.box(env={"FAKETIME": "@2000-01-01 00:00:00"}) as box:
        held(await box.run(["python3", "-c", "import time; START = time.time()\n" + CLOCKS], timeout_s=20))
        faked = await box.run(["python3", "-c", FAKED], timeout_s=LIMIT_S)
        expect(faked.status is ExecStatus.TIMEOUT, told(faked))
        expect(LIMIT_S - EARLY_S <= faked.wall_s < LIMIT_S + LATE_S * target.slack, told(faked))
        slept = await box.run(["python3", "-c", "import time; time.sleep(0.3); time.time = lambda: 0"])
        expect(slept.ok and slept.wall_s >= 0.3, f"0.3 s of sleep were measured as {slept.wall_s:.2f}")
    return "clock_settime, settimeofday, adjtimex, clock_adjtime; a faked clock changed no limit"


PROCESSORS = """
import os, subprocess
print(len(os.sched_getaffinity(0)), subprocess.run(["nproc"], capture_output=True, text=True).stdout.strip())
"""


@row(29, "a program sees as many processors as it may use")
async def processors(target: Target) -> str:
    words: list[str] = []
    host = len(os.sched_getaffinity(0))
    for cpus, seen in ((0.5, 1), (1, 1), (2, min(2, host))):
        result = await target.python(PROCESSORS, timeout_s=20, limits={"cpus": cpus})
        expect(printed(result) == f"{seen} {seen}", f"cpus={cpus}: affinity and nproc are {told(result)}")
        words.append(f"cpus={cpus}: {seen}")
    return ", ".join(words)
