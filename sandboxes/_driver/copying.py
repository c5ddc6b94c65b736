"""Forks where nothing can be shared: a tree is packed by a program inside, and unpacked by one in the twin.

What leads out of the workspace leads out of it inside a sandbox only.
"""

from ..errors import SandboxFileError
from ..sandbox import ExecResult, Sandbox

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
_PER_ENTRY = 4096
"""Bytes of a tar beside the content, at most, for the entries that a workspace may have."""
_ENTRIES_PER_MB = 128


async def copy_workspace(box: Sandbox, twin: Sandbox, disk_mb: int) -> None:
    """Everything in the workspace, with modes, times and links. Raises `SandboxFileError`."""
    limit = (disk_mb << 20) + disk_mb * _ENTRIES_PER_MB * _PER_ENTRY
    packed = await box.run(["python3", "-c", _PACK], timeout_s=_TIMEOUT_S, output_limit=limit)
    _require(packed, "packed")
    unpacked = await twin.run(["python3", "-c", _UNPACK], stdin=packed.stdout, timeout_s=_TIMEOUT_S)
    _require(unpacked, "unpacked")


def _require(result: ExecResult, what: str) -> None:
    if not result.ok or result.omitted_stdout:
        said = result.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise SandboxFileError(f"the workspace could not be {what}: {result.status.value}: {said}")
