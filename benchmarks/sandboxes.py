"""How fast `open + run + close` of `python -c "print(6*7)"` is, by tier, next to plain subprocesses.

    python benchmarks/sandboxes.py --json sandboxes.json

Processor time is the figure to compare: seconds on a busy machine say little.
"""

import argparse
import asyncio
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from palaestra.sandboxes import SandboxSpec, open_sandbox
from palaestra.sandboxes._embedded.zygotes import interpreter, stop_zygotes
from palaestra.sandboxes.selftest import self_test

CODE = "print(6 * 7)"
IN_FLIGHT = (1, 8, 32)


async def in_sandbox(tier: str) -> bytes:
    async with open_sandbox(SandboxSpec(backend=tier)) as box:
        return (await box.run(["python3", "-c", CODE])).stdout


async def in_subprocess(*flags: str) -> bytes:
    process = await asyncio.create_subprocess_exec(interpreter(), *flags, "-c", CODE, stdout=subprocess.PIPE)
    return (await process.communicate())[0]


async def rate(once: Callable[[], Awaitable[bytes]], in_flight: int, count: int) -> float:
    """Executions a second."""
    slots = asyncio.Semaphore(in_flight)

    async def one() -> None:
        async with slots:
            output = await once()
        if output != b"42\n":
            raise RuntimeError(f"wrong answer: {output!r}")

    started = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(count)))
    return count / (time.perf_counter() - started)


def cpu_s() -> float:
    """Of this process and of all its children that have ended."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


async def measure(name: str, once: Callable[[], Awaitable[bytes]], count: int) -> dict[str, float]:
    await once()
    before = cpu_s()
    rates = {f"per_s_at_{flight}": await rate(once, flight, count) for flight in IN_FLIGHT}
    # A zygote's own share, and that of the sandboxes it waited for, is ours once it has ended.
    stop_zygotes()
    row = {"cpu_ms": (cpu_s() - before) / (count * len(IN_FLIGHT)) * 1e3, **rates}
    print(f"{name:24}", "  ".join(f"{key} {value:8.2f}" for key, value in row.items()))
    return row


async def main(count: int) -> dict[str, dict[str, float]]:
    tiers = [tier for tier in ("namespaces", "landlock") if (await self_test(tier)).ok]
    stop_zygotes()
    rows = {
        "subprocess": await measure("subprocess", in_subprocess, count),
        "subprocess -S": await measure("subprocess -S", lambda: in_subprocess("-S"), count),
    }
    for tier in tiers:
        rows[tier] = await measure(tier, lambda tier=tier: in_sandbox(tier), count)  # type: ignore[misc]
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100, help="executions for each figure")
    parser.add_argument("--json", type=Path, help="write the ratios and their conditions here")
    options = parser.parse_args()
    rows = asyncio.run(main(options.count))
    plain = rows["subprocess"]["cpu_ms"]
    ratios = {f"{name} cpu / subprocess cpu": row["cpu_ms"] / plain for name, row in rows.items()}
    conditions = {
        "python": sys.version.split()[0],
        "kernel": platform.release(),
        "processors": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "rows": rows,
    }
    print(json.dumps(ratios, indent=2))
    if options.json is not None:
        options.json.write_text(json.dumps({"ratios": ratios, "conditions": conditions}, indent=2) + "\n")
