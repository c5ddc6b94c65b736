"""What is attacked: the sandboxes of one backend, and its own view of what exists."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from importlib import import_module
from typing import Any

from ..sandbox import ExecResult, Sandbox, SandboxSpec

SMALL: Mapping[str, Any] = {"memory_mb": 96, "pids": 16, "disk_mb": 16}
"""The limits of a sandbox that a row asks for without others."""
OPENER = f"{__name__.rpartition('.')[0].rpartition('.')[0]}.backends:create_sandbox"
BUSY = 5.0
"""How much longer than on a quiet machine anything may take before a quick row fails."""

Opener = Callable[[SandboxSpec], Awaitable[Sandbox]]


class View(ABC):
    """What a backend knows of itself; every call may block."""

    settles_s: float
    """Seconds after the end of a sandbox in which all of it goes."""

    @abstractmethod
    def everything(self) -> frozenset[str]:
        """The names of all that exists for this process or for a dead one: processes, containers, mounts,
        directories. Two looks at the same thing give the same name."""

    @abstractmethod
    def programs(self) -> Sequence[str]:
        """Processes of programs in this process's sandboxes; what the backend itself runs is not counted."""

    def open_faults(self) -> Mapping[str, Callable[[], AbstractContextManager[object]]]:
        """Ways to have what stands behind the backend fail while a sandbox is opened."""
        return {}

    def call_faults(self) -> Mapping[str, Callable[[Sandbox], object]]:
        """Ways to have it fail under a call in a sandbox."""
        return {}


class Target:
    """One backend under attack, as rows see it.

    >>> async with Target("namespaces", EmbeddedView("namespaces")).box(pids=8) as box: ...
    """

    def __init__(self, backend: str, view: View, *, is_full: bool = False, opener: str = OPENER) -> None:
        """`opener` names ("module:function") what makes an open sandbox of a spec, in any process."""
        self.backend = backend
        self.view = view
        self.is_full = is_full
        """Whole sizes and exact times; else sizes that take a second, and times for a busy machine."""
        self.opener = opener

    @property
    def slack(self) -> float:
        """By what to multiply a time that must not be exceeded."""
        return 1.0 if self.is_full else BUSY

    def size(self, quick: int, full: int) -> int:
        return full if self.is_full else quick

    @asynccontextmanager
    async def box(self, **limits: Any) -> AsyncGenerator[Sandbox, None]:
        """A sandbox of the backend. `limits`: fields of `SandboxSpec`, over those of `SMALL`."""
        async with opened(self.opener, self.spec(**limits)) as box:
            yield box

    def spec(self, **limits: Any) -> SandboxSpec:
        return SandboxSpec(backend=self.backend, **{**SMALL, **limits})

    async def run(
        self, argv: Sequence[str], *, limits: Mapping[str, Any] | None = None, **options: Any
    ) -> ExecResult:
        """One program in a sandbox of its own. `options` are those of `Sandbox.run`."""
        async with self.box(**(limits or {})) as box:
            return await box.run(argv, **options)

    async def python(self, code: str, *args: str, **options: Any) -> ExecResult:
        return await self.run(["python3", "-c", code, *args], **options)

    async def seconds_until_no_program(self) -> float:
        """How long the last processes of programs still live; at most 3."""
        return await asyncio.to_thread(self._wait_for_no_program)

    def _wait_for_no_program(self) -> float:
        started = time.monotonic()
        while self.view.programs() and time.monotonic() - started < 3:
            time.sleep(0.005)
        return time.monotonic() - started


@asynccontextmanager
async def opened(opener: str, spec: SandboxSpec) -> AsyncGenerator[Sandbox, None]:
    """A sandbox for the length of a block."""
    box = await load_opener(opener)(spec)
    try:
        yield box
    finally:
        await box.close()


def load_opener(name: str) -> Opener:
    """The function behind "module:function"."""
    module, _, function = name.partition(":")
    opener: Opener = getattr(import_module(module), function)
    return opener
