"""What a fork of a workspace costs: how much longer `fork` takes than opening an empty sandbox."""

import statistics
import time

from palaestra.sandboxes import Sandbox, SandboxSpec, SandboxUnavailable, open_sandbox

NUM_FILES = 1000
_MAKE = f"""
import os
for at in range({NUM_FILES}):
    if at % 50 == 0: os.mkdir(f"d{{at // 50}}")
    with open(f"d{{at // 50}}/{{at}}", "w") as file: file.write("x" * 100)
"""


async def measure_fork(tier: str, times: int) -> dict[str, float]:
    """{"fork_ms"}: median difference, over as many pairs; empty where there is no such tier."""
    # Limits that nobody else here has: no sandbox of them waits for its next owner, and each open is one.
    spec = SandboxSpec(backend=tier, disk_mb=255)
    try:
        async with open_sandbox(spec) as box:
            made = await box.run(["python3", "-c", _MAKE])
            if not made.ok:
                raise RuntimeError(f"{NUM_FILES} files could not be made: {made.stderr!r}")
            differences = [await _pair(box, spec) for _ in range(times)]
    except SandboxUnavailable:
        return {}
    return {"fork_ms": statistics.median(differences) * 1e3}


async def _pair(box: Sandbox, spec: SandboxSpec) -> float:
    """Seconds that a fork takes over an open, one right after the other."""
    started = time.perf_counter()
    twin = await box.fork()
    forked = time.perf_counter() - started
    if len(await twin.list("d0")) != 50:
        raise RuntimeError("a fork without its files")
    await twin.close()
    started = time.perf_counter()
    async with open_sandbox(spec) as other:
        opened = time.perf_counter() - started
        await other.write("file", b"")  # or the next one would find it ready
    return forked - opened
