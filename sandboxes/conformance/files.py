"""The file calls, on what hostile programs left in the workspace, and under names of every kind."""

import os
from collections.abc import Awaitable
from contextlib import suppress
from pathlib import Path

from ..errors import SandboxFileError
from ..sandbox import Sandbox
from .row import Broken, expect, printed, row
from .target import Target

TRAPS = """
import os, socket
os.symlink("/etc/passwd", "link"); os.symlink("/etc", "door"); os.symlink("loop", "loop")
os.symlink("real", "alias"); os.symlink("../../../../etc", "up"); os.symlink("/proc/self/root", "magic")
os.symlink(".", "dot"); os.symlink("/", "top")
os.mkfifo("pipe"); os.mkdir("real"); open("real/file", "w").write("x")
try: socket.socket(socket.AF_UNIX).bind("socket")
except OSError: os.mkfifo("socket")
for source in ("/etc/passwd", "/usr/bin/env", "/proc/self/status"):
    try: os.link(source, "hard" + source.replace("/", "-")); print("linked", source)
    except OSError: pass
try: os.mknod("device", 0o20666, os.makedev(1, 3)); print("made a device")
except OSError: os.mkfifo("device")
with open("sparse", "wb") as file:
    for size in (1 << 40, 1 << 33, 1 << 27, 1 << 23):
        try: file.truncate(size); break
        except OSError: pass
print("done")
"""
NOT_FILES = (
    *("link", "door/passwd", "up/passwd", "magic/etc/passwd", "top/etc/passwd", "alias/file"),
    *("dot/real/file", "loop", "pipe", "../outside"),
    *("socket", "device", "real", "sparse", "missing", "missing/x", "real/file/x", "../x", "real/../../x"),
    *("/etc/passwd", "/dev/null", "", ".", "..", "/", "nul\0", "half\ud800", "x" * 256, "y/" * 2100 + "y"),
)
NOT_TARGETS = tuple(
    name for name in NOT_FILES if name not in ("missing", "missing/x", "sparse", "y/" * 2100 + "y")
)
NOT_FOLDERS = (
    *("door", "top", "link", "alias", "up", "magic", "dot", "loop", "pipe", "missing", "missing/below"),
    *("../", "/", "..", "../outside"),
)
NOT_REMOVABLE = (
    *("..", "/", ".", "", "door/passwd", "top/etc", "alias/file", "up/hosts", "missing", "half\ud800"),
    "/etc/passwd",
)


@row(30, "file calls touch regular files of the workspace and nothing else")
async def traps(target: Target) -> str:
    before = _passwd()
    async with target.box() as box:
        expect(printed(await box.run(["python3", "-c", TRAPS])) == "done", "a link out or a device was made")
        for path in NOT_FILES:
            await _refused(box.read(path, max_bytes=1 << 20), f"read of {path!r:.60}")
        for path in NOT_TARGETS:
            await _refused(box.write(path, b"planted"), f"write to {path!r:.60}")
        for path in NOT_FOLDERS:
            await _refused(box.list(path), f"list of {path!r:.60}")
        for path in NOT_REMOVABLE:
            await _refused(box.remove(path), f"remove of {path!r:.60}")
        await _limits_hold(box)
        await _links_are_replaced_and_removed(box)
        expect(not (await box.run(["sh", "-c", "grep -rs planted /etc"])).stdout, "/etc was written to")
        words = await _race(target, box)
    expect(_passwd() == before, "/etc/passwd changed")
    return f"{len(NOT_FILES)} paths to read, {len(NOT_TARGETS)} to write, {len(NOT_FOLDERS)} to list; {words}"


def _passwd() -> tuple[int, bytes]:
    path = Path("/etc/passwd")
    return path.stat().st_ino, path.read_bytes()


# Swaps a file for a link and a folder for a link, all the time, in one step each (renameat2, EXCHANGE).
SWAPPER = """
import ctypes, os
os.makedirs("race/hall"); os.chdir("race")
open("spot", "w").write("inside"); os.symlink("/etc/passwd", "spare")
open("hall/passwd", "w").write("inside"); os.symlink("/etc", "gate")
libc = ctypes.CDLL(None)
os.write(1, b"on")
while True:
    libc.syscall(316, -100, b"spot", -100, b"spare", 2)
    libc.syscall(316, -100, b"hall", -100, b"gate", 2)
"""


async def _race(target: Target, box: Sandbox) -> str:
    """A job changes the tree under the calls; each gets what lies inside, or a typed error."""
    if not box.capabilities().jobs:
        return "no jobs to race with"
    job = await box.start(["python3", "-c", SWAPPER])
    expect((await anext(job.chunks())).data == b"on", "the swapper did not start")
    good, rounds = 0, target.size(50, 2000)
    for _ in range(rounds):
        for path in ("race/spot", "race/hall/passwd", "race/gate/passwd"):
            with suppress(SandboxFileError):
                content = await box.read(path)
                expect(content == b"inside", f"read {path} in a race: {content[:60]!r}")
                good += 1
        for path in ("race/hall", "race/gate"):
            with suppress(SandboxFileError):
                listed = await box.list(path)
                expect(set(listed) <= {"passwd", "new"}, f"list of {path} in a race: {listed[:9]}")
        for path in ("race/spot", "race/spare", "race/hall/new", "race/gate/new"):
            with suppress(SandboxFileError):
                await box.write(path, b"inside")
        with suppress(SandboxFileError):
            await box.remove("race/hall/new")
    await job.kill()
    expect(good > 0, "no read in a race succeeded: nothing was tried")
    await box.remove("race")
    return f"{rounds} rounds against a job that swaps files for links"


async def _refused(call: Awaitable[object], name: str) -> str:
    """The words of the refusal."""
    try:
        got = await call
    except SandboxFileError as error:
        return str(error)
    raise Broken(f"{name} gave {got!r:.100}")


async def _limits_hold(box: Sandbox) -> None:
    await box.write("five", b"12345")
    words = await _refused(box.read("five", max_bytes=4), "read over max_bytes")
    expect("max_bytes=4" in words, f"the refusal does not name its limit: {words}")
    expect(await box.read("five", max_bytes=5) == b"12345", "a file of exactly max_bytes is not read")


async def _links_are_replaced_and_removed(box: Sandbox) -> None:
    """A hard link's twin keeps its content, and removing a link leaves what it points to."""
    printed(await box.run(["sh", "-c", "ln real/file twin; chmod 444 twin || true"]))
    await box.write("twin", b"new")
    expect(
        (await box.read("twin"), await box.read("real/file")) == (b"new", b"x"),
        "a hard link was written through",
    )
    for name in ("link", "door", "top", "alias", "up", "magic", "dot", "loop", "pipe", "socket", "device"):
        await box.remove(name)
    expect(await box.list() == ["five", "real/", "sparse", "twin"], f"left are {await box.list()}")
    await box.remove("real")
    await box.remove("sparse")


NAMES = (
    *("plain", "-rf", "--", "new\nline", "sp ace", "\ttab", "caf\u00e9", "raw\udce9\udcff", "x" * 255),
    *("$(id)", "`id`", "a;b", "'quo\"te", "*", "~", "back\\slash", "\x1b[31m", " ", "...", "\u202e", "\r"),
)
BAD_NAMES = ("x" * 256, "\u00e9" * 128, "\0", "\0lead", "trail\0", "half\ud800", "a/" + "x" * 256)
ECHO = "import os, sys; os.write(1, os.fsencode(sys.argv[1]))"


@row(32, "any name makes the round trip or gets a typed error, and no shell ever sees it")
async def names(target: Target) -> str:
    async with target.box() as box:
        for name in NAMES:
            raw = os.fsencode(name)
            await box.write(name, b"first and longer")
            await box.write(name, raw)
            expect(await box.read(name) == raw, f"{name!r} came back changed")
            await box.write(f"under/{name}/leaf", raw)
            expect(await box.list(f"under/{name}") == ["leaf"], f"{name!r} as a folder")
            for argv in (["python3", "-c", ECHO, name], ["printf", "%s", name], ["cat", "--", f"./{name}"]):
                result = await box.run(argv)
                expect(
                    result.ok and result.stdout == raw, f"{argv[0]} of {name!r} gave {result.stdout!r:.80}"
                )
        expect(await box.list() == sorted({*NAMES, "under/"}), f"the listing is {await box.list()}")
        for name in BAD_NAMES:
            for call in (box.write(name, b"x"), box.read(name), box.list(name), box.remove(name)):
                await _refused(call, f"a call with {name!r:.40}")
        await box.write("under/big", bytes(5 << 20))
        expect(await box.read("under/big") == bytes(5 << 20), "5 MiB came back changed")
        for name in await box.list():
            await box.remove(name.rstrip("/") if name == "under/" else name)
        expect(await box.list() == [], f"not removed: {await box.list()}")
    return f"{len(NAMES)} good names as files, folders and arguments; {len(BAD_NAMES)} bad ones"
