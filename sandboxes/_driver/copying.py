"""Forks where nothing can be shared: a tree is packed by a program inside, and unpacked by one in the twin.

What leads out of the workspace leads out of it inside a sandbox only.
"""

from ..errors import SandboxFileError
from ..job import Job
from ..sandbox import Sandbox

_PACK = """
import os, sys, tarfile
with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as tree:
    for name in sorted(os.listdir(".")):
        tree.add(name)
"""
_UNPACK = """
import sys, tarfile
options = {"filter": "fully_trusted"} if hasattr(tarfile, "fully_trusted_filter") else {}
with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as tree:
    tree.extractall(**options)
"""
_TIMEOUT_S = 120.0
_LAST_WORDS = 4096


async def copy_workspace(box: Sandbox, twin: Sandbox) -> None:
    """Everything in the workspace, with modes, times and links. Raises `SandboxFileError`.

    It goes from program to program: nowhere is all of it in memory.
    """
    packing = await box.start(["python3", "-c", _PACK], timeout_s=_TIMEOUT_S)
    try:
        unpacking = await twin.start(["python3", "-c", _UNPACK], stdin=None, timeout_s=_TIMEOUT_S)
        await _require(packing, "packed", unpacking)
        await unpacking.send(b"", is_last=True)
        await _require(unpacking, "unpacked")
    finally:
        await packing.kill()


async def _require(job: Job, what: str, reader: Job | None = None) -> None:
    """See a job to a good end; `reader` gets what it prints."""
    words = b""
    async for chunk in job.chunks():
        if chunk.stream == "stderr":
            words = (words + chunk.data)[-_LAST_WORDS:]
        elif reader is not None:
            await reader.send(chunk.data)
    result = await job.wait()
    if not result.ok:
        said = words.decode(errors="replace").strip().rpartition("\n")[2]
        raise SandboxFileError(f"the workspace could not be {what}: {result.status.value}: {said}")
