"""Programs that write too much, write anything at all, or leave their input unread."""

from ..sandbox import ExecResult, ExecStatus
from .proc import MemoryPeak
from .row import ended, expect, printed, row, told
from .target import Target

CAP = 8 << 20
"""Bytes of each stream that a flood's result may keep."""
BLOCK = 1 << 20
FLOOD = """
import os, sys
streams, blocks = list(map(int, sys.argv[1].split(","))), int(sys.argv[2])
block = b"." * (1 << 20)
for fd in streams: os.write(fd, b"head")
for n in range(blocks):
    for fd in streams:
        rest = memoryview(block)
        while rest: rest = rest[os.write(fd, rest):]
for fd in streams: os.write(fd, b"tail")
raise SystemExit(3)
"""


@row(8, "a flood is drained and counted, keeps its head, tail and exit code, and costs the driver little")
async def floods(target: Target) -> str:
    blocks = target.size(96, 10 << 10)
    words: list[str] = []
    async with target.box() as box:
        for streams in ("1", "2", "1,2"):
            peak = MemoryPeak()
            result = await box.run(
                ["python3", "-c", FLOOD, streams, str(blocks)],
                timeout_s=target.size(30, 600),
                output_limit=CAP,
            )
            grown = peak.grown()
            ended(result, ExecStatus.NONZERO, name=f"a flood on {streams}")
            expect(result.exit_code == 3, f"the exit code was 3, not {result.exit_code}")
            kept = _check_flood(result, streams, blocks)
            expect(
                grown <= 2 * kept,
                f"a flood on {streams} that keeps {kept >> 20} MiB cost the driver {grown / BLOCK:.1f} MiB",
            )
            words.append(f"{streams}: {grown / kept:.1f} times what was kept")
    return f"{blocks} MiB on each of {'; '.join(words)}"


def _check_flood(result: ExecResult, streams: str, blocks: int) -> int:
    """Bytes that were kept, after a look at them."""
    total = 0
    for number, kept, omitted in (
        ("1", result.stdout, result.omitted_stdout),
        ("2", result.stderr, result.omitted_stderr),
    ):
        if number not in streams:
            expect((kept, omitted) == (b"", 0), f"descriptor {number} got {len(kept) + omitted} bytes")
            continue
        expect(len(kept) == CAP, f"{len(kept)} bytes were kept, the limit is {CAP}")
        sent = blocks * BLOCK + 8
        expect(len(kept) + omitted == sent, f"{len(kept)} kept + {omitted} omitted are not {sent}")
        expect(kept.startswith(b"head.") and kept.endswith(b".tail"), "the head or the tail is not there")
        total += len(kept)
    return total


WHOLE = "import os, sys; n = int(sys.argv[1]); os.write(2, b'y' * n); sys.stdout.write('x' * n)"


@row(9, "a megabyte of a correct program comes back whole, and is never a timeout")
async def whole_outputs(target: Target) -> str:
    sizes = (100_000, 200_000, 1_000_000, 1 << 20)
    async with target.box() as box:
        for size in sizes:
            result = await box.run(["python3", "-c", WHOLE, str(size)], timeout_s=20)
            expect(result.ok, f"{size} bytes: {told(result)}")
            same = (result.stdout, result.stderr) == (b"x" * size, b"y" * size)
            expect(same, f"of {size} bytes {len(result.stdout)} and {len(result.stderr)} came back")
            expect(result.omitted_stdout == result.omitted_stderr == 0, "bytes were omitted")
            back = await box.run(["cat"], stdin=bytes(size), timeout_s=20)
            expect(back.stdout == bytes(size), f"cat of {size} bytes gave {told(back)}")
    return ", ".join(map(str, sizes))


ODD = {
    "every byte": bytes(range(256)),
    "NUL": b"a\0b\0",
    "cut UTF-8": "é".encode()[:1] + b"\xc3\x28\xf0\x9f",
    "surrogates": b"\xed\xa0\x80\xed\xbf\xbf",
    "terminal codes": b"\x1b[2J\x1b]0;title\x07\x9b31m\r\b",
    "no newline": b"x",
}
LONG_LINE = "import os\nfor n in range(100): os.write(1, b'l' * 1_000_000)"


@row(10, "any bytes come back as they are, and so does a line of 100 MB, cut")
async def odd_outputs(target: Target) -> str:
    async with target.box() as box:
        for name, data in ODD.items():
            code = f"import os; data = bytes.fromhex('{data.hex()}'); os.write(1, data); os.write(2, data)"
            result = await box.run(["python3", "-c", code])
            expect(result.ok and (result.stdout, result.stderr) == (data, data), f"{name}: {told(result)}")
        line = await box.run(["python3", "-c", LONG_LINE], timeout_s=30)
        whole = len(line.stdout) + line.omitted_stdout
        expect(line.ok and whole == 100_000_000, f"{whole} bytes of a line of 100 MB are accounted for")
        expect(set(line.stdout) == {ord("l")}, "the line came back changed")
    return f"{', '.join(ODD)}, a line of 100 MB"


@row(15, "a program that reads stdin with none given meets its end at once")
async def no_stdin(target: Target) -> str:
    readers = {
        "python": ["python3", "-c", "import sys; print(repr(sys.stdin.read()))"],
        "python, executed": ["env", "python3", "-c", "import sys; print(repr(sys.stdin.read()))"],
        "shell": ["sh", "-c", "read x; echo \"'$x'\""],
    }
    async with target.box() as box:
        for name, argv in readers.items():
            result = await box.run(argv, timeout_s=20)
            expect(printed(result) == "''", f"{name} read {told(result)}")
            expect(result.wall_s < 1 * target.slack, f"{name} waited for {result.wall_s:.1f} s")
        expect((await box.run(["cat"])).stdout == b"", "cat read something")
    return ", ".join((*readers, "cat"))


@row(16, "input that nobody reads blocks nothing, and whoever writes after a close hears of it alone")
async def unread_stdin(target: Target) -> str:
    size_mb = target.size(24, 100)
    data = bytes(size_mb << 20)
    async with target.box() as box:
        for name, argv in {
            "leaves it": ["python3", "-c", "pass"],
            "closes it": ["sh", "-c", "exec 0<&-; sleep 0.1"],
            "executed": ["true"],
        }.items():
            result = await box.run(argv, stdin=data, timeout_s=20)
            expect(result.ok, f"{name}: {told(result)}")
        code = "import sys; print(len(sys.stdin.buffer.read()))"
        read = await box.run(["python3", "-c", code], stdin=data[: 24 << 20], timeout_s=20)
        expect(printed(read) == str(24 << 20), f"of {24 << 20} bytes it read {told(read)}")
        closed = await box.run(["sh", "-c", "exec 1>&-; echo x; exit 5"], timeout_s=20)
        expect(closed.exit_code == 5, f"after closing its stdout: {told(closed)}")
    return f"{size_mb} MiB left unread, closed, and passed by"
