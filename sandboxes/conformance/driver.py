"""A driver for the rows that need one of their own; `driving.py` starts it with an order, in JSON.

{"stage": "programs", "programs": [argv, ...]}    run them in one sandbox, print their outputs
{"stage": "create" | "idle" | "exec" | "teardown" | "grade", "boxes": n, "mark": word}
                                                  get there, say so on stdout, go on until killed
{"stage": "terminal", "program": argv}            run it with a terminal of the driver's own at hand
"""

import asyncio
import fcntl
import json
import os
import sys
import termios
from typing import Any

from ..sandbox import Sandbox, SandboxSpec
from .target import SMALL, opened

Order = dict[str, Any]


def main() -> None:
    order: Order = json.loads(sys.argv[1])
    stages = {"programs": _programs, "terminal": _terminal}
    asyncio.run(stages.get(order["stage"], _until_killed)(order))


def _spec(order: Order) -> SandboxSpec:
    return SandboxSpec(backend=order["backend"], **SMALL, env=order.get("env", {}))


async def _programs(order: Order) -> None:
    outputs: list[str] = []
    async with opened(order["opener"], _spec(order)) as box:
        for argv in order["programs"]:
            result = await box.run(argv, timeout_s=60)
            outputs.append(result.stdout.decode(errors="replace"))
    print(json.dumps(outputs))


async def _terminal(order: Order) -> None:
    """What comes to the terminal's input is told, in the end, on its output."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    async with opened(order["opener"], _spec(order)) as box:
        result = await box.run(order["program"], timeout_s=30)
    os.set_blocking(0, False)
    try:
        typed = os.read(0, 4096)
    except BlockingIOError:
        typed = b""
    print(
        json.dumps(
            {"said": (result.stdout + result.stderr).decode(errors="replace"), "typed": typed.decode()}
        )
    )


async def _until_killed(order: Order) -> None:
    await asyncio.gather(*(_one(order) for _ in range(order["boxes"])))
    print("end", flush=True)


async def _one(order: Order) -> None:
    stage = order["stage"]
    if stage == "create":
        print("there", flush=True)
    async with opened(order["opener"], _spec(order)) as box:
        await box.write("deep/er/file", bytes(1 << 20))
        if stage == "teardown":
            code = "for n in range(500): open(str(n), 'w').close()"
            await box.run(["python3", "-c", code])
            print("there", flush=True)
        else:
            await _work(box, stage, order["mark"])


async def _work(box: Sandbox, stage: str, mark: str) -> None:
    """A program that stays; one that grades reads what the candidate left."""
    print("there", flush=True)
    sleep = f"sleep {mark}"
    if stage == "idle":
        await asyncio.sleep(300)
    elif stage == "grade":
        await box.read("deep/er/file")
        await box.run(["sh", "-c", f"cat > answer; {sleep}"], stdin=bytes(1 << 20), timeout_s=300)
    else:
        await box.run(["sh", "-c", f"setsid {sleep} & {sleep}"], timeout_s=300)


if __name__ == "__main__":
    main()
