"""Sandboxes without a wall, to see that the conformance suite notices."""

import asyncio
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

from palaestra.sandboxes import ExecResult, ExecStatus, Sandbox, SandboxFileError, SandboxSpec
from palaestra.sandboxes.backends import create_sandbox
from palaestra.sandboxes.conformance import View
from palaestra.sandboxes.faults import Faults, FaultySandbox, SandboxFault


class PlainBox(Sandbox):
    """A subprocess on the host, as everybody writes it first."""

    tier = "plain"

    def __init__(self, folder: str) -> None:
        self._folder = folder

    async def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout_s: float = 10.0,
        output_limit: int = 1 << 20,
        env: Mapping[str, str] | None = None,
        cwd: str = ".",
        key: str | None = None,
    ) -> ExecResult:
        started = time.monotonic()
        done = await asyncio.to_thread(
            subprocess.run, argv, input=stdin, capture_output=True, cwd=self._folder, check=False
        )
        return ExecResult(
            status=ExecStatus.NONZERO if done.returncode else ExecStatus.OK,
            exit_code=done.returncode,
            stdout=done.stdout[:output_limit],
            stderr=done.stderr[:output_limit],
            wall_s=time.monotonic() - started,
        )

    async def write(self, path: str, data: bytes) -> None:
        raise SandboxFileError("it only runs programs")

    async def read(self, path: str, *, max_bytes: int = 64 << 20) -> bytes:
        raise SandboxFileError("it only runs programs")

    async def list(self, path: str = ".") -> list[str]:
        return os.listdir(self._folder)

    async def remove(self, path: str) -> None:
        raise SandboxFileError("it only runs programs")

    async def close(self) -> None:
        shutil.rmtree(self._folder)


async def open_plain(spec: SandboxSpec) -> Sandbox:
    return PlainBox(tempfile.mkdtemp())


async def open_mute(spec: SandboxSpec) -> Sandbox:
    """A real sandbox that loses what programs write."""
    faults = Faults(seed=0, rates={SandboxFault.OUTPUT_LOSS: 1.0})
    return FaultySandbox(await create_sandbox(spec), faults)


class ForgetfulBox(FaultySandbox):
    """A real sandbox that forgets to kill what its programs leave."""

    async def run(self, argv: Sequence[str], **options: Any) -> ExecResult:
        result = await super().run(argv, **options)
        job = await self.start(["sh", "-c", "echo up; exec sleep 77"])
        await anext(job.chunks())
        return result


async def open_forgetful(spec: SandboxSpec) -> Sandbox:
    return ForgetfulBox(await create_sandbox(spec), Faults(seed=0))


class NoView(View):
    """Sees nothing, but what it was told."""

    settles_s = 0.01

    def __init__(self, *left: str) -> None:
        self._left = left
        self._looks = 0

    def everything(self) -> frozenset[str]:
        self._looks += 1
        return frozenset(self._left if self._looks > 1 else ())

    def programs(self) -> Sequence[str]:
        return ()
