"""The public way to a sandbox."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from .sandbox import Sandbox, SandboxSpec


@asynccontextmanager
async def open_sandbox(spec: SandboxSpec | None = None) -> AsyncGenerator[Sandbox, None]:
    """A fresh sandbox for the length of the block.

    >>> async with open_sandbox(SandboxSpec(memory_mb=256)) as box:
    ...     result = await box.run(["python3", "-c", "print(6 * 7)"])
    """
    from .backends import create_sandbox  # what a sandbox is made of is loaded with the first one

    box = await create_sandbox(spec or SandboxSpec())
    try:
        yield box
    finally:
        await box.close()
