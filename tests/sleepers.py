"""A program that can be seen from outside, and waiting until something is so."""

import asyncio
import os
import time
from collections.abc import Callable

from palaestra.sandboxes import Sandbox

SLEEP = f"sleep 301.{os.getpid()}"
"""Its processes can be told from everybody else's."""


def sleepers() -> list[int]:
    """Every process that is `SLEEP`, in whatever sandbox."""
    command = "".join(f"{word}\0" for word in SLEEP.split()).encode()
    found: list[int] = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                if file.read() == command:
                    found.append(int(name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


async def until(condition: Callable[[], bool]) -> None:
    """Fails after ten seconds."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def until_there(box: Sandbox, name: str) -> None:
    """Wait until a program has made this file: so it has come that far."""
    deadline = time.monotonic() + 10
    while name not in await box.list():
        assert time.monotonic() < deadline, f"no {name}"
        await asyncio.sleep(0.02)
