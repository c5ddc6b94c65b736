"""Programs that fill the disk with bytes, with files and with depth."""

import asyncio
import os
import time
from collections.abc import Awaitable

from ..errors import SandboxFileError
from ..sandbox import ExecResult, ExecStatus, Sandbox
from .row import Broken, ended, expect, printed, row, told
from .target import SMALL, Target

DISK_MB = SMALL["disk_mb"]
SEEN_S = 5.0
"""How long a program may take to go over what is watched, and be ended."""
_OVERSHOOT_MB = 150
"""How much more than its quota a program may take where it is watched, before it is seen."""
_HOST_DISKS = ("/", "/tmp", "/dev/shm")

FULL = {
    "one file": "with open('big', 'wb', 0) as f:\n while True: f.write(b'x' * (1 << 20))",
    "many files": "for n in range(COUNT): open(str(n), 'wb', 0).write(b'x' * (1 << 20))",
    "fallocate": "f = os.open('big', os.O_CREAT | os.O_RDWR); os.posix_fallocate(f, 0, 1 << 30)",
    "sparse": "f = open('big', 'wb', 0)\ntry: f.truncate(1 << 30)\nexcept OSError: pass\n"
    "for n in range(COUNT): f.seek(n << 20); f.write(b'x' * (1 << 20))",
    "elsewhere": "import tempfile\nfor n in range(COUNT):\n"
    " tempfile.NamedTemporaryFile(delete=False, buffering=0).write(b'x' * (1 << 20))",
    "hidden": "os.mkdir('d'); d = os.open('d', 0)\n"
    "try: os.chmod('d', 0); os.chdir(d)\nexcept OSError:\n"
    " try: os.chmod('d', 0o300); os.chdir('d')\n except OSError: os.mkdir('e', 0o300); os.chdir('e')\n"
    "for n in range(COUNT): open(str(n), 'wb', 0).write(b'x' * (1 << 20))",
    "unlinked": "kept = []\nfor n in range(COUNT):\n"
    " f = open(str(n), 'wb', 0); os.unlink(str(n)); kept.append(f); f.write(b'x' * (1 << 20))",
}
FILL = """
import errno, os
try:
    {way}
except OSError as error: print(errno.errorcode[error.errno])
else: {otherwise}
"""


def _filling(way: str, count: int, otherwise: str) -> str:
    body = FULL[way].replace("COUNT", str(count)).replace("\n", "\n    ")
    return FILL.format(way=body, otherwise=otherwise)


def _free() -> dict[str, int]:
    """Bytes left on each disk of the host."""
    found = {path: os.statvfs(path) for path in _HOST_DISKS if os.path.isdir(path)}
    return {path: at.f_bavail * at.f_frsize for path, at in found.items()}


async def _lost_while(running: "asyncio.Task[object]", before: dict[str, int]) -> int:
    """The most that any disk of the host has less than before, in bytes, until the task is done."""
    lost = 0
    while not running.done():
        await asyncio.wait([running], timeout=0.01)
        now = _free()
        lost = max(lost, *(before[path] - now[path] for path in now))
    return lost


async def _clear(box: Sandbox) -> None:
    for name in await box.list():
        await box.remove(name.rstrip("/"))
    printed(await box.run(["sh", "-c", "rm -rf ${TMPDIR:-/tmp}/tmp*"]))


async def _disk_is_watched(target: Target) -> str:
    """What goes over the limit is ended, at most a look later, and the space comes back."""
    ends: list[str] = []
    async with target.box() as box:
        for way in FULL:
            result = await _fill(box, way, DISK_MB, _OVERSHOOT_MB, "import time; time.sleep(10)")
            at_once = result.ok and result.stdout in (b"EFBIG\n", b"ENOSPC\n")
            expect(at_once or result.status is ExecStatus.KILLED, f"{way}: {told(result)}")
            expect(result.wall_s < SEEN_S, f"{way}: it was seen after {result.wall_s:.1f} s only")
            ends.append(f"{way}: {result.stdout.decode().strip() or result.status.value}")
            await box.write("after", b"x" * (1 << 20))
    return "; ".join(ends)


@row(6, "a full disk is an error to the program and no loss to the host", refusal=_disk_is_watched)
async def disk_bombs(target: Target) -> str:
    quota_mb = target.size(DISK_MB, 64)
    ends: list[str] = []
    async with target.box(disk_mb=quota_mb, memory_mb=max(96, 3 * quota_mb)) as box:
        try:
            await box.write("big", bytes((quota_mb + 1) << 20))
        except SandboxFileError:
            expect(await box.list() == [], "half a file was left by a refused write")
            await box.write("small", b"x")
        else:
            raise Broken(f"a file of {quota_mb + 1} MiB was written under a limit of {quota_mb}")
        for way in FULL:
            result = await _fill(box, way, quota_mb, quota_mb, "print('no end')")
            expect(result.ok and result.stdout in (b"ENOSPC\n", b"EFBIG\n"), f"{way}: {told(result)}")
            ends.append(f"{way}: {result.stdout.decode().strip()}")
    return "; ".join(ends)


async def _fill(box: Sandbox, way: str, quota_mb: int, most_mb: int, otherwise: str) -> ExecResult:
    """How a program ended that wrote four times the quota, or would have. `most_mb`: of the host's disks."""
    program = ["python3", "-c", _filling(way, 4 * quota_mb, otherwise)]
    lost_mb: list[int] = []
    while True:
        before = _free()
        running = asyncio.create_task(box.run(program, timeout_s=20))
        lost_mb.append(await _lost_while(running, before) >> 20)
        await _clear(box)
        # The host's disks have other users; what a sandbox takes, it takes each time.
        if lost_mb[-1] < most_mb:
            return await running
        expect(len(lost_mb) < 3, f"{way}: the host lost {lost_mb} MiB under a limit of {quota_mb}")


INODES = "import os\nos.mkdir('many')\nfor n in range({count}): open(f'many/{n}', 'w').close()"
DEPTH = "import os\nfor n in range({count}): os.mkdir('deep'); os.chdir('deep')"


@row(7, "a million files and a directory of endless depth are capped, and soon cleared")
async def entries(target: Target) -> str:
    count = target.size(100_000, 1_000_000)
    words: list[str] = []
    for name, code in {"many": INODES, "deep": DEPTH}.items():
        async with target.box() as box:
            program = code.replace("{count}", str(count)) + "\nprint('no end')"
            result = await box.run(["python3", "-c", program], timeout_s=60)
            ended(result, ExecStatus.NONZERO, ExecStatus.KILLED, name=name)
            full = result.status is ExecStatus.KILLED or b"No space left" in result.stderr
            expect(full, f"{name}: {told(result)}")
            removed_s = await _seconds(box.remove(name))
            expect(removed_s < 1 * target.slack, f"{name}: removing it took {removed_s:.1f} s")
            await box.write("after", b"x")
            printed(await box.run(["python3", "-c", DEPTH.replace("{count}", "100")]))
            closed_s = await _seconds(box.close())
            expect(closed_s < 1 * target.slack, f"{name}: closing took {closed_s:.1f} s")
            words.append(f"{name}: {result.status.value}, removed in {removed_s * 1e3:.0f} ms")
    return "; ".join(words)


async def _seconds(call: Awaitable[object]) -> float:
    started = time.monotonic()
    await call
    return time.monotonic() - started
