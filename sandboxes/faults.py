"""Faults on purpose: the plan that says which calls fail, and a sandbox that keeps to it.

faults = Faults(seed=0, rates={SandboxFault.REFUSAL: 0.1}, at={SandboxFault.DEATH: [3]})
box = FaultySandbox(box, faults)

Every fault that strikes has an id, which `faults.log` keeps and the error or the log of its victim shows.
"""

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from enum import StrEnum
from typing import TypeVar

from .errors import SandboxFileError, SandboxLost
from .job import Job
from .opening import open_sandbox
from .sandbox import Capabilities, ExecResult, Sandbox, SandboxSpec, require_call
from .session import Session

FaultT = TypeVar("FaultT", bound=StrEnum)


class SandboxFault(StrEnum):
    """What can be made to go wrong with a sandbox."""

    DEATH = "sandbox-death"
    """It dies under a call: that one and all later ones raise `SandboxLost`."""
    HANG = "sandbox-hang"
    """A program never answers; `hang_s` after its time limit the sandbox is given up."""
    OUTPUT_LOSS = "sandbox-output-loss"
    """A program ends as it would, and what it wrote is gone."""
    REFUSAL = "sandbox-refusal"
    """A file call raises `SandboxFileError`."""
    SLOW_START = "sandbox-slow-start"
    """The first call waits for `slow_s` more."""


class Faults:
    """Which calls go wrong: the same ones for the same seed, in whatever order the calls come.

    >>> faults = Faults(seed=0, at={SandboxFault.DEATH: [2]})
    >>> faults.strike(SandboxFault.DEATH, seed=7), faults.strike(SandboxFault.DEATH, seed=7)
    (None, 'sandbox-death-1fd9f7df4ba2')
    """

    def __init__(
        self,
        *,
        seed: int,
        rates: Mapping[FaultT, float] | None = None,
        at: Mapping[FaultT, Collection[int]] | None = None,
    ) -> None:
        """`rates`: part of the calls that fail, 0 .. 1; `at`: those that fail in any case, the first being 1.

        A kind that is in neither never strikes.
        """
        self._seed = seed
        self._rates = dict[StrEnum, float]((rates or {}).items())
        self._at = dict[StrEnum, Collection[int]]((at or {}).items())
        self._met = Counter[tuple[StrEnum, int]]()
        self.log: list[str] = []
        """The id of every fault so far."""

    def strike(self, fault: StrEnum, seed: int) -> str | None:
        """The id of a fault, if this call is to fail. `seed`: of the episode, or of the engine call."""
        number = self._met[fault, seed]
        self._met[fault, seed] += 1
        digest = hashlib.blake2b(f"{self._seed}/{fault}/{seed}/{number}".encode(), digest_size=14).digest()
        is_drawn = int.from_bytes(digest[:8]) / 2**64 < self._rates.get(fault, 0.0)
        if not is_drawn and number + 1 not in self._at.get(fault, ()):
            return None
        self.log.append(f"{fault}-{digest[8:].hex()}")
        return self.log[-1]


class FaultySandbox(Sandbox):
    """A sandbox around another one, which it closes when it dies."""

    def __init__(
        self, box: Sandbox, faults: Faults, *, seed: int = 0, hang_s: float = 30.0, slow_s: float = 5.0
    ) -> None:
        """`seed`: of the episode, so that each has faults of its own."""
        self.tier = box.tier
        self._box, self._faults, self._seed = box, faults, seed
        self._hang_s, self._slow_s = hang_s, slow_s
        self._death = ""
        self._is_started = False

    def capabilities(self) -> Capabilities:
        return self._box.capabilities()

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
        require_call(argv, timeout_s, output_limit, env, cwd)
        await self._begin()
        if fault := self._strike(SandboxFault.HANG):
            await self._hang(fault, timeout_s + self._hang_s)
        result = await self._box.run(
            argv,
            stdin=stdin,
            timeout_s=timeout_s,
            output_limit=output_limit,
            env=env,
            cwd=cwd,
            key=key,
        )
        return result if self._strike(SandboxFault.OUTPUT_LOSS) is None else _without_output(result)

    async def start(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes | None = b"",
        timeout_s: float | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str = ".",
    ) -> Job:
        await self._begin()
        return await self._box.start(argv, stdin=stdin, timeout_s=timeout_s, env=env, cwd=cwd)

    def job(self, id: int) -> Job:
        return self._box.job(id)

    async def shell(self) -> Session:
        await self._begin()
        return await self._box.shell()

    async def python(self) -> Session:
        await self._begin()
        return await self._box.python()

    async def write(self, path: str, data: bytes) -> None:
        await self._begin_file_call(path)
        await self._box.write(path, data)

    async def read(self, path: str, *, max_bytes: int = 64 << 20) -> bytes:
        await self._begin_file_call(path)
        return await self._box.read(path, max_bytes=max_bytes)

    async def list(self, path: str = ".") -> list[str]:
        await self._begin_file_call(path)
        return await self._box.list(path)

    async def remove(self, path: str) -> None:
        await self._begin_file_call(path)
        await self._box.remove(path)

    async def fork(self) -> "FaultySandbox":
        """Its faults are of the same plan."""
        await self._begin()
        twin = await self._box.fork()
        return FaultySandbox(twin, self._faults, seed=self._seed, hang_s=self._hang_s, slow_s=self._slow_s)

    async def close(self) -> None:
        await self._box.close()

    # ------------------------------------------------------------ what goes wrong

    def _strike(self, fault: SandboxFault) -> str | None:
        return self._faults.strike(fault, self._seed)

    async def _begin(self) -> None:
        """Of every call: what may happen before it has any effect."""
        if not self._is_started:
            self._is_started = True
            if self._strike(SandboxFault.SLOW_START):
                await asyncio.sleep(self._slow_s)
        if not self._death and (fault := self._strike(SandboxFault.DEATH)):
            await self._die(fault)
        if self._death:
            raise SandboxLost(f"the sandbox is gone: {self._death}")

    async def _begin_file_call(self, path: str) -> None:
        await self._begin()
        if fault := self._strike(SandboxFault.REFUSAL):
            raise SandboxFileError(f"{path!r}: refused on purpose: {fault}")

    async def _die(self, fault: str) -> None:
        self._death = fault
        await self._box.close()

    async def _hang(self, fault: str, seconds: float) -> None:
        """Until whoever waits has enough, and is told why, or until the time is up."""
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError as error:
            error.add_note(fault)
            raise
        await self._die(fault)
        raise SandboxLost(f"the sandbox gave no answer in {seconds:g} s: {fault}")


def _without_output(result: ExecResult) -> ExecResult:
    return replace(result, stdout=b"", stderr=b"", omitted_stdout=0, omitted_stderr=0)


@asynccontextmanager
async def open_faulty_sandbox(
    faults: Faults, spec: SandboxSpec | None = None, *, seed: int = 0
) -> AsyncGenerator[FaultySandbox, None]:
    """`open_sandbox`, with faults."""
    async with open_sandbox(spec) as box:
        yield FaultySandbox(box, faults, seed=seed)
