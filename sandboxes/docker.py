"""Sandboxes in Docker containers: for images, and where the embedded backend has no tier.

A container costs about 0.3 s once; a program in it costs about what it costs outside, because the Docker API
is not asked for each: `_docker/guest.py` is PID 1 and serves runs and files over one attached connection.

What a program cannot do: reach a network, another uid's process, a file outside /tmp and /dev/shm, or more
memory, processes and disk than the spec says. Files are kept in memory and count in `memory_mb`, of which
they can fill about two thirds at most.
What is not protected: the kernel is shared with the host, so a kernel exploit gets out. Processor caches and
timing are shared. /proc/meminfo and /proc/cpuinfo show the host's sizes. A program that works at it can have
the kernel take the guest when memory ends: its result is then "oom" without output, and so is every later
one; its files are gone.
Whoever may talk to the Docker engine is root on its host.
"""

import asyncio
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, TypeVar

from ._docker import containers
from ._driver.calls import Answer
from ._driver.client import GRACE_S, BoxClient
from ._forks import keep_from_forks
from .errors import SandboxError, SandboxFileError, SandboxLost, SandboxUnavailable
from .sandbox import Capabilities, ExecResult, ExecStatus, SandboxSpec

T = TypeVar("T")

PROGRAM_UID = 65534
"""Who programs are inside: nobody."""
MAX_BLOCKING_CALLS = 8
"""Calls to the Docker engine at one time; it gets slower, not faster, with more."""
_LAST_WORDS = 4096


async def create_docker_sandbox(spec: SandboxSpec) -> "DockerSandbox":
    """A started container. Raises `SandboxUnavailable` when the engine or a wall is missing."""
    starting = asyncio.ensure_future(_in_thread(lambda: containers.start(spec)))
    try:
        lease = await asyncio.shield(starting)
    except asyncio.CancelledError:
        starting.add_done_callback(_drop)
        await asyncio.wait([starting])
        raise
    keep_from_forks(lease.sock)
    try:
        box = DockerSandbox(spec, lease)
    except BaseException:
        lease.sock.close()
        raise
    try:
        await box.greet()
    except BaseException:
        await box.close()
        raise
    return box


def _drop(starting: asyncio.Future[containers.Lease]) -> None:
    """Give up the container that a cancelled creation still got."""
    if not starting.cancelled() and starting.exception() is None:
        starting.result().sock.close()


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(MAX_BLOCKING_CALLS, thread_name_prefix="palaestra-docker")


async def _in_thread(call: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(_threads(), call)


class Attached:
    """The stream of an attached container, taken out of Docker's own frames."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._left = 0
        self.stderr = b""
        """The last words of a guest that crashed."""

    def __call__(self, data: bytes) -> Iterator[memoryview]:
        """What of `data` came from the guest's stdout."""
        rest = memoryview(data)
        while rest:
            if not self._left:
                # Which stream, three zeros, a length.
                taken = rest[: 8 - len(self._head)]
                self._head += taken
                rest = rest[len(taken) :]
                if len(self._head) < 8:
                    return
                self._left = int.from_bytes(self._head[4:], "big")
            part = rest[: self._left]
            rest = rest[len(part) :]
            self._left -= len(part)
            is_stdout = self._head[0] == 1
            if not self._left:
                self._head.clear()
            if is_stdout:
                yield part
            else:
                self.stderr = (self.stderr + part)[-_LAST_WORDS:]


class DockerSandbox(BoxClient):
    """One container."""

    def __init__(self, spec: SandboxSpec, lease: containers.Lease) -> None:
        self.container = lease.container
        """The engine's id of it."""
        self._attached = Attached()
        self._is_out_of_memory = False
        self._why = ""
        self._closing: asyncio.Future[None] | None = None
        is_proxied = spec.network != "none"
        super().__init__("docker", spec, lease.sock, is_proxied=is_proxied, unwrap=self._attached)

    def capabilities(self) -> Capabilities:
        return Capabilities(tier=self.tier, jobs=True, fork="copy", networks=("none", "open", "hosts"))

    async def greet(self) -> None:
        """Tell the guest what it is for. Raises `SandboxUnavailable` when it sees a wall missing."""
        answer = Answer()
        head = {
            "workspace": containers.WORKSPACE,
            "uid": PROGRAM_UID,
            "gid": PROGRAM_UID,
            "cpus": math.ceil(self.spec.cpus),
            "memory_mb": self.spec.memory_mb,
            "pids": self.spec.pids,
            "preload": list(self.spec.preload),
            "has_network": self.spec.network != "none",
        }
        self.send(answer, head)
        words, missing = await self.within(answer.future, GRACE_S)
        if words[0] != b"ok":
            raise SandboxUnavailable(missing.decode(errors="replace"))
        if missing:
            walls = missing.decode(errors="replace").replace("\0", ", ")
            raise SandboxUnavailable(
                f"the Docker engine does not hold: {walls}; see the warnings of `docker info`, or use another"
            )

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
        started = time.time()
        was_gone = not self.link.is_open
        try:
            return await super().run(
                argv,
                stdin=stdin,
                timeout_s=timeout_s,
                output_limit=output_limit,
                env=env,
                cwd=cwd,
                key=key,
            )
        except SandboxLost:
            if not was_gone:
                self._is_out_of_memory = await self._ran_out_of_memory(started)
            if not self._is_out_of_memory or self._closing is not None:
                raise
        wall_s = time.time() - started
        return ExecResult(status=ExecStatus.OOM, exit_code=None, stdout=b"", stderr=b"", wall_s=wall_s)

    async def _ran_out_of_memory(self, since: float) -> bool:
        """Whether the kernel took the guest itself: the program's doing then, and no fault of the engine."""
        return await _in_thread(lambda: containers.ran_out_of_memory(self.container, since))

    async def ask(self, head: dict[str, Any], *payload: bytes) -> bytes:
        if self._is_out_of_memory and self._closing is None:
            raise SandboxFileError("memory ran out, and took the sandbox's files along")
        return await super().ask(head, *payload)

    async def open_twin(self) -> "DockerSandbox":
        return await create_docker_sandbox(self.spec)

    def end_now(self) -> None:
        self._why = self._why or "its guest is stuck"
        self.link.close()

    def why_lost(self) -> SandboxError:
        last_words = self._attached.stderr.decode(errors="replace").strip()
        return SandboxLost(f"the sandbox is gone: {self._why or last_words or 'its connection ended'}")

    async def close(self) -> None:
        if self._closing is None:
            self.is_closing = True
            self.link.close()
            self._closing = asyncio.ensure_future(self._see_removed())
        await asyncio.shield(self._closing)

    async def _see_removed(self) -> None:
        await self.close_gate()
        await _in_thread(lambda: containers.see_removed(self.container))
