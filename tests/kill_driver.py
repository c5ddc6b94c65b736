"""A driver to be killed: many sandboxes at once, each opened, used in ways that a seed decides, and closed.

python tests/kill_driver.py SEED NUMBER_AT_ONCE SLEEP BACKEND...
"""

import asyncio
import random
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress

from palaestra.sandboxes import Sandbox, SandboxSpec, open_sandbox
from palaestra.sandboxes.pool import Pool

COMPUTE = "import time; x = bytearray(1 << 20); print(sum(range(10_000)))"


async def use(box: Sandbox, rng: random.Random) -> None:
    match rng.choice(("write", "read", "compute", "sleep", "leave", "flood")):
        case "write":
            await box.write(f"{rng.randrange(9)}/file", bytes(rng.randrange(1 << 20)))
        case "read":
            await box.write("file", b"x" * rng.randrange(1 << 16))
            await box.read("file")
        case "compute":
            await box.run(["python3", "-c", COMPUTE])
        case "sleep":
            await box.run(["sh", "-c", f"setsid {sleeping(rng)} & {sleeping(rng)}"], timeout_s=0.2)
        case "leave":
            await box.run(["sh", "-c", f"{sleeping(rng)} & mkdir -p a/b/c; exec true"])
        case _:
            with suppress(TimeoutError):
                await asyncio.wait_for(box.run(["sh", "-c", "yes & yes >&2"]), rng.uniform(0, 0.2))


def sleeping(rng: random.Random) -> str:
    """Half of these outlive the command unless they are killed."""
    return sys.argv[3] if rng.random() < 0.5 else "sleep 0.05"


async def forever(opened: Callable[[], AbstractAsyncContextManager[Sandbox]], seed: int) -> None:
    rng = random.Random(seed)
    while True:
        async with opened() as box:
            for _ in range(rng.randrange(4)):
                await use(box, rng)
            print("used", flush=True)


async def main(seed: int, number: int, backends: list[str]) -> None:
    size = number // len(backends)
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        for place, backend in enumerate(backends):
            spec = SandboxSpec(backend=backend, memory_mb=64, disk_mb=16)
            pool = await stack.enter_async_context(Pool(spec, size=size))
            for each in range(size):
                opened = pool.lease if seed % 2 else lambda spec=spec: open_sandbox(spec)
                group.create_task(forever(opened, seed * 1000 + place * 100 + each))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[4:]))
