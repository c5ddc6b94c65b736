"""A look for bytes in the memory of a program, and ways for bytes to pass through a sandbox."""

import hashlib

from embedded_box import printed

from palaestra.sandboxes import Sandbox

# Counts a canary in its own memory: by its first bytes and the digest of the whole, so that it holds no
# copy itself. The kernel copies what is mapped into a pipe and refuses the rest, so no map is needed.
SCAN = """
import ctypes, hashlib, os, sys
first, digest = bytes.fromhex(sys.argv[1]), bytes.fromhex(sys.argv[2])
held = [bytes.fromhex(sys.argv[3]) * count for count in (30, 30_000)] if sys.argv[3:] else []
libc = ctypes.CDLL(None)
libc.sbrk.restype = ctypes.c_long
libc.write.argtypes = [ctypes.c_int, ctypes.c_long, ctypes.c_long]
reader, writer = os.pipe()
def pieces(at, end, step):
    while (at - end) * step < 0:
        size = libc.write(writer, at, 65536 if step > 0 else 4096)
        if size > 0: yield os.read(reader, 65536)
        elif step < 0: return
        at += max(size, 4096) * step
def hits(parts):
    found, before = 0, b""
    for part in parts:
        text = before + part
        at = -1
        while (at := text.find(first, at + 1)) >= 0:
            found += hashlib.sha256(text[at : at + 32]).digest() == digest
        before = part[-31:]
    return found
heap = libc.sbrk(0) & -4096
while libc.write(writer, heap - 4096, 4096) > 0: heap -= 4096; os.read(reader, 4096)
print(hits(pieces(heap, libc.sbrk(0), 1)))
middle = id([]) & -4096
print(hits(pieces(middle - (1 << 28), middle + (1 << 28), 1)))
"""


async def scan(box: Sandbox, canary: bytes, *held: str) -> list[int]:
    """Copies of `canary` in the memory of a new program: in the heap, and in mappings."""
    digest = hashlib.sha256(canary).hexdigest()
    argv = ["python3", "-c", SCAN, canary[:8].hex(), digest, *held]
    return [int(count) for count in printed(await box.run(argv, timeout_s=60)).split()]


async def written(box: Sandbox, text: bytes) -> None:
    await box.write("file", text)
    await box.remove("file")


async def read(box: Sandbox, text: bytes) -> None:
    await box.write("file", text)
    assert await box.read("file") == text
    await box.remove("file")


async def put_in_and_out(box: Sandbox, text: bytes) -> None:
    assert (await box.run(["cat"], stdin=text)).stdout == text
    assert (await box.run(["sh", "-c", "cat >&2"], stdin=text, output_limit=len(text))).stderr == text
    assert (await box.run(["cat"], stdin=text, output_limit=99)).omitted_stdout == len(text) - 99
    assert (await box.run(["python3", "-c", "pass"], stdin=text)).ok


async def named(box: Sandbox, text: bytes) -> None:
    argument = text[:49_000].hex()
    assert (await box.run(["python3", "-c", f"code = bytes.fromhex('{argument}')"])).ok
    assert (await box.run(["echo", argument])).ok
