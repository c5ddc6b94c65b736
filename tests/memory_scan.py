"""A look for bytes in the memory of a program, and ways for bytes to pass through a sandbox."""

import hashlib

from embedded_box import printed

from palaestra.sandboxes import Sandbox
from palaestra.sandboxes.conformance.sight import SCAN


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
