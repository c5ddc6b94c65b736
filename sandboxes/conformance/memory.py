"""Programs that take memory: as one, as many, and where no process size shows it."""

from ..sandbox import ExecResult, ExecStatus
from .proc import MemoryPeak
from .row import Broken, ended, expect, row, told
from .target import SMALL, Target

LIMIT_MB = SMALL["memory_mb"]
DRIVER_BYTES = 8 << 20
"""How much the driver may grow while its programs take memory."""

SEEN_S = 5.0
"""How long a bomb may take to fill its memory and be ended."""

ONE = {
    "step by step": "kept = []\nwhile True: kept.append(b'x' * (1 << 20))",
    "at once": "x = b'x' * (200 << 20)",
    "refused at once": "x = bytearray(1 << 45)",
    "unreadable": "import ctypes\nctypes.CDLL(None).prctl(4, 0, 0, 0, 0)\n"
    "kept = []\nwhile True: kept.append(b'x' * (1 << 20))",
    "mapped": "import mmap\nm = mmap.mmap(-1, 1 << 30)\nfor i in range(0, 1 << 30, 4096): m[i] = 1",
}
TEN = (
    "import os, time\n"
    "for _ in range(10): os.fork() or (x := b'x' * (20 << 20), time.sleep(20))\n"
    "time.sleep(20)"
)


@row(3, "a memory bomb is ended as out of memory, and costs the driver none")
async def one_process(target: Target) -> str:
    async with target.box() as box:
        for name, code in ONE.items():
            peak = MemoryPeak()
            result = await box.run(["python3", "-c", code], timeout_s=20)
            ended(result, ExecStatus.OOM, name=name)
            expect(result.wall_s < SEEN_S, f"{name}: it was seen after {result.wall_s:.1f} s only")
            expect(peak.grown() < DRIVER_BYTES, f"{name}: the driver grew by {peak.grown() >> 20} MiB")
    return f"{', '.join(ONE)} under a limit of {LIMIT_MB} MiB"


@row(4, "memory counts over all processes together")
async def ten_processes(target: Target) -> str:
    # Where the kernel ends only the largest process, the program goes on until its time is up.
    result = await target.python(TEN, timeout_s=3)
    ended(result, ExecStatus.OOM, name="ten processes of 20 MiB")
    return f"ten processes of 20 MiB each under a limit of {LIMIT_MB} MiB"


HOLDERS = {
    "files": "import tempfile\ndef grow(): f.write(b'x' * MB); f.flush()\nf = tempfile.TemporaryFile()",
    "/dev/shm": "f = open('/dev/shm/x', 'wb', 0); os.unlink('/dev/shm/x')\ndef grow(): f.write(b'x' * MB)",
    "memfd": "fd = os.memfd_create('x')\ndef grow(): os.write(fd, b'x' * MB)",
    "SysV": "import ctypes; libc = ctypes.CDLL(None, use_errno=True)\n"
    "libc.shmat.restype = ctypes.c_void_p\n"
    "def grow():\n"
    " id = libc.shmget(0, MB, 0o1600)\n"
    " if id < 0: raise OSError(ctypes.get_errno(), 'shmget')\n"
    " at = libc.shmat(id, None, 0)\n"
    " if at in (None, 2 ** 64 - 1): raise OSError(ctypes.get_errno(), 'shmat')\n"
    " ctypes.memset(at, 1, MB)",
    "pipes": "import fcntl; kept = []\ndef grow():\n"
    " r, w = os.pipe(); os.set_blocking(w, False); kept.append((r, w)); sent = 0\n"
    " try: fcntl.fcntl(w, 1031, MB)\n except OSError: pass\n"
    " while sent < MB: sent += os.write(w, b'x' * 65536)",
    "sockets": "import socket; kept = []\ndef grow():\n"
    " sent = 0\n"
    " while sent < MB:\n"
    "  pair = socket.socketpair(); pair[0].setblocking(False); kept.append(pair)\n"
    "  sent += pair[0].send(b'x' * MB)",
}
HOLD = """
import errno, os, sys, time
MB, held = 1 << 20, 0
try:
    {way}
    for _ in range(400): grow(); held += 1
except OSError as error: print(held, errno.errorcode.get(error.errno, error.errno))
except MemoryError: print(held, "MemoryError")
else: print(held, "no end")
sys.stdout.flush()
time.sleep(0.3)
"""


@row(5, "memory that no process size shows is counted or capped")
async def beside_processes(target: Target) -> str:
    words: list[str] = []
    for name, result in await _holders(target):
        if result.status is ExecStatus.OOM:
            words.append(f"{name}: oom")
        elif result.status is ExecStatus.KILLED and name in ("files", "/dev/shm"):
            words.append(f"{name}: over the disk limit")
        elif result.ok:
            held_mb, reason = result.stdout.decode().split()
            expect(int(held_mb) <= LIMIT_MB, f"{name}: a program holds {held_mb} MiB under {LIMIT_MB}")
            words.append(f"{name}: {held_mb} MiB, then {reason}")
        else:
            raise Broken(f"{name}: {told(result)}")
    words.append(f"sockets of many processes: {await _many_processes_of_sockets(target)}")
    return "; ".join(words)


async def _holders(target: Target) -> list[tuple[str, ExecResult]]:
    async with target.box() as box:
        programs = {
            name: HOLD.replace("{way}", code.replace("\n", "\n    ")) for name, code in HOLDERS.items()
        }
        return [
            (name, await box.run(["python3", "-c", code], timeout_s=20)) for name, code in programs.items()
        ]


MANY_SOCKETS = """
import os, socket, time
kept = []
for _ in range(3): os.fork()
try:
    while True:
        pair = socket.socketpair(); pair[0].setblocking(False); kept.append(pair)
        pair[0].send(b"x" * (1 << 20))
except OSError: time.sleep(9)
"""


async def _many_processes_of_sockets(target: Target) -> str:
    """Together they could hold some 200 MiB: 8 processes of about 125 pairs."""
    result = await target.python(MANY_SOCKETS, timeout_s=4, limits={"memory_mb": 48})
    ended(result, ExecStatus.OOM, name="eight processes full of sockets")
    return "oom"
