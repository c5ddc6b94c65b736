"""Sandboxes in Docker containers: for images, and where the embedded backend has no tier.

A container costs about 0.3 s once; a program in it costs about what it costs outside, because the Docker API
is not asked for each: `guest.py` is PID 1 and serves runs and files over one attached connection.

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
import os
import struct
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from typing import Any, TypeVar

from ._docker import containers
from ._docker.frames import CHUNK, pack, unpack
from .errors import SandboxFileError, SandboxLost, SandboxUnavailable
from .sandbox import ExecResult, ExecStatus, Sandbox, SandboxSpec, is_word, require_call

T = TypeVar("T")
Fields = list[bytes]

PROGRAM_UID = 65534
"""Who programs are inside: nobody."""
MAX_BLOCKING_CALLS = 8
"""Calls to the Docker engine at one time; it gets slower, not faster, with more."""
ANSWER_S = 10.0
"""How long after a program's deadline, or after a cancelled call, the guest may take to say so."""
FILE_CALL_S = 120.0
MAX_FRAME = 64 << 20
"""The longest answer that is read from a guest whose outputs are small."""


async def create_docker_sandbox(spec: SandboxSpec) -> "DockerSandbox":
    """A started container. Raises `SandboxUnavailable` when the engine or a wall is missing."""
    starting = asyncio.ensure_future(_in_thread(lambda: containers.start(spec)))
    try:
        lease = await asyncio.shield(starting)
    except asyncio.CancelledError:
        starting.add_done_callback(_drop)
        await asyncio.wait([starting])
        raise
    try:
        lease.sock.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=lease.sock, limit=1 << 20)
    except BaseException:
        lease.sock.close()
        raise
    box = DockerSandbox(lease.container, reader, writer)
    try:
        await box.greet(spec)
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


class _Connection:
    """Frames to and from the guest, inside the stream that Docker wraps its output in."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._stdout = bytearray()
        self.stderr = b""
        """The last words of a guest that crashed."""

    def send(self, *fields: bytes) -> None:
        self._writer.write(pack(*fields))

    async def drain(self) -> None:
        await self._writer.drain()

    async def receive(self, max_bytes: int = MAX_FRAME) -> Fields:
        (size,) = struct.unpack(">I", await self._take(4))
        if size > max_bytes:
            raise ConnectionError(f"the guest announced a frame of {size} bytes")
        return unpack(await self._take(size))

    async def _take(self, size: int) -> bytes:
        while len(self._stdout) < size:
            # Docker's own frames: which stream, three zeros, a length.
            stream, length = struct.unpack(">BxxxI", await self._reader.readexactly(8))
            data = await self._reader.readexactly(length)
            if stream == 1:
                self._stdout += data
            else:
                self.stderr = (self.stderr + data)[-4096:]
        taken = bytes(self._stdout[:size])
        del self._stdout[:size]
        return taken

    def drop(self) -> None:
        self._writer.transport.abort()

    async def closed(self) -> None:
        with suppress(OSError):  # it was reset: closed is closed
            await self._writer.wait_closed()


class DockerSandbox(Sandbox):
    """One container. Calls are served one after the other."""

    tier = "docker"

    def __init__(self, container: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.container = container
        """The engine's id of it."""
        self._link = _Connection(reader, writer)
        self._turn = asyncio.Lock()
        self._gone = ""
        self._is_out_of_memory = False
        self._closing: asyncio.Future[None] | None = None

    async def greet(self, spec: SandboxSpec) -> None:
        """Tell the guest what it is for. Raises `SandboxUnavailable` when it sees a wall missing."""
        cpus = math.ceil(spec.cpus)
        numbers = (PROGRAM_UID, PROGRAM_UID, cpus, spec.memory_mb << 20, spec.pids + 1)
        env = [os.fsencode(f"{name}={value}") for name, value in spec.env.items()]

        async def exchange() -> Fields:
            workspace = containers.WORKSPACE.encode()
            self._link.send(b"hello", workspace, *(str(n).encode() for n in numbers), *env)
            return await self._link.receive()

        _, *missing = await self._call(exchange, FILE_CALL_S)
        if missing:
            walls = b", ".join(missing).decode()
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
    ) -> ExecResult:
        require_call(argv, timeout_s, output_limit)

        async def exchange() -> ExecResult:
            more = b"1" if len(stdin) > CHUNK else b"0"
            head = (str(timeout_s).encode(), str(output_limit).encode(), stdin[:CHUNK], more)
            self._link.send(b"run", *head, *map(os.fsencode, argv))
            sent = CHUNK
            while True:
                verb, *facts = await self._link.receive(MAX_FRAME + 2 * output_limit)
                if verb == b"exit":
                    return _result(facts)
                self._link.send(b"stdin", stdin[sent : sent + CHUNK])
                sent += CHUNK

        started = time.time()
        was_gone = bool(self._gone)
        try:
            return await self._call(exchange, timeout_s + ANSWER_S)
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

    async def _file_call(self, exchange: Callable[[], Coroutine[Any, Any, T]]) -> T:
        if self._is_out_of_memory and self._closing is None:
            raise SandboxFileError("memory ran out, and took the sandbox's files along")
        return await self._call(exchange, FILE_CALL_S)

    async def write(self, path: str, data: bytes) -> None:
        async def exchange() -> Fields:
            self._link.send(b"write", _path(path))
            for start in range(0, len(data), CHUNK):
                self._link.send(b"data", data[start : start + CHUNK])
                await self._link.drain()
            self._link.send(b"end")
            return await self._link.receive()

        _refuse(path, await self._file_call(exchange))

    async def read(self, path: str, *, max_bytes: int = 64 << 20) -> bytes:
        async def exchange() -> tuple[Fields, bytes]:
            self._link.send(b"read", _path(path), str(max_bytes).encode())
            content = bytearray()
            while (frame := await self._link.receive())[0] == b"data":
                content += frame[1]
            return frame, bytes(content)

        answer, content = await self._file_call(exchange)
        _refuse(path, answer)
        return content

    async def list(self, path: str = ".") -> list[str]:
        names = _refuse(path, await self._ask(b"list", path))
        return [os.fsdecode(name) for name in names]

    async def remove(self, path: str) -> None:
        _refuse(path, await self._ask(b"remove", path))

    async def _ask(self, verb: bytes, path: str) -> Fields:
        async def exchange() -> Fields:
            self._link.send(verb, _path(path))
            return await self._link.receive()

        return await self._file_call(exchange)

    async def _call(self, exchange: Callable[[], Coroutine[Any, Any, T]], within_s: float) -> T:
        """One request to its answer, alone on the connection. A cancelled one is brought to its end first."""
        async with self._turn:
            if self._gone:
                raise SandboxLost(f"the sandbox is gone: {self._gone}")
            task = asyncio.create_task(self._answered(exchange, within_s))
            try:
                return await asyncio.shield(task)
            except asyncio.CancelledError:
                await self._wind_up(task)
                raise

    async def _answered(self, exchange: Callable[[], Coroutine[Any, Any, T]], within_s: float) -> T:
        """The exchange, or `SandboxLost` when the guest is late, gone or not making sense."""
        try:
            async with asyncio.timeout(within_s):
                return await exchange()
        except (EOFError, OSError, ValueError) as error:
            last_words = self._link.stderr.decode(errors="replace").strip()
            self._lose(f"its guest is gone or stuck ({type(error).__name__}: {last_words or error})")
            raise SandboxLost(f"the sandbox died under a call: {self._gone}") from error

    async def _wind_up(self, task: asyncio.Task[T]) -> None:
        """Have a cancelled call's program killed and its answer read: the next call shall find silence."""
        self._link.send(b"cancel")
        try:
            await asyncio.wait([task], timeout=ANSWER_S)
        finally:
            if not task.done():
                task.cancel()
                self._lose("a cancelled call did not end")
            elif not task.cancelled():
                task.exception()  # nobody else will ask for it

    def _lose(self, why: str) -> None:
        self._gone = self._gone or why
        self._link.drop()

    async def close(self) -> None:
        if self._closing is None:
            self._lose("it was closed")
            self._closing = asyncio.ensure_future(self._see_removed())
        await asyncio.shield(self._closing)

    async def _see_removed(self) -> None:
        await self._link.closed()
        await _in_thread(lambda: containers.see_removed(self.container))


def _path(path: str) -> bytes:
    if not is_word(path):
        raise SandboxFileError(f"{path!r}: a path is UTF-8 text without NUL")
    return os.fsencode(path)


def _refuse(path: str, answer: Fields) -> Fields:
    """The rest of a good answer. Raises `SandboxFileError` for the other kind."""
    verb, *rest = answer
    if verb != b"ok":
        raise SandboxFileError(f"{path!r}: {b''.join(rest).decode(errors='replace')}")
    return rest


def _result(facts: Fields) -> ExecResult:
    """What `Program.report` tells."""
    how, (code, signal, ooms, refusals) = facts[0], map(int, facts[1:5])
    wall_s, cpu_s, rss_mb = map(float, facts[5:8])
    if ooms:
        status = ExecStatus.OOM
    elif how != b"ended":
        status = ExecStatus.TIMEOUT
    elif refusals and (code or signal):
        status = ExecStatus.PIDS
    elif signal:
        status = ExecStatus.KILLED
    else:
        status = ExecStatus.NONZERO if code else ExecStatus.OK
    return ExecResult(
        status=status,
        exit_code=code if how == b"ended" and not signal else None,
        stdout=facts[10],
        stderr=facts[11],
        omitted_stdout=int(facts[8]),
        omitted_stderr=int(facts[9]),
        wall_s=wall_s,
        cpu_s=cpu_s,
        max_rss_mb=rss_mb,
    )
