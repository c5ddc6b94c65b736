"""The driver's side of the embedded tiers: one zygote per tier, one socket per sandbox.

    driver ──"open 7" + socket──> zygote ──clone──> supervisor of sandbox 7
       └─────────────────── frames on that socket ────────────┘

Nothing here forks the driver or belongs to an event loop, except an open sandbox to the loop that opened it.
"""

import asyncio
import atexit
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from . import _wire
from ._linux import require_linux
from ._wire import Header
from .errors import SandboxFileError, SandboxLost, SandboxUnavailable
from .sandbox import ExecResult, ExecStatus, Sandbox, SandboxSpec

_BOOT = (
    "import sys, types; package = types.ModuleType('_palaestra'); package.__path__ = [sys.argv[1]]; "
    "sys.modules['_palaestra'] = package; from _palaestra.zygote import main; "
    "main(sys.argv[2], int(sys.argv[3]))"
)
_GRACE_S = 30.0
"""How long after a program's timeout an answer may still come on an overloaded machine."""
_CLOSE_S = 5.0
_QUEUE_FULL_S = 0.002


class Zygote:
    """The driver's handle on one zygote process."""

    def __init__(self, tier: str) -> None:
        self.tier = tier
        self.owner = os.getpid()
        self._next_number = 0
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        here = str(Path(__file__).resolve().parent)
        with theirs:
            self._process = subprocess.Popen(
                [interpreter(), "-S", "-c", _BOOT, here, tier, str(theirs.fileno())],
                env=base_environment(),
                cwd="/",
                pass_fds=[theirs.fileno()],
                # Pipes, so that sys.stdin and sys.stdout are set up as a program's will be.
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                # Ctrl-C in the driver's terminal is the driver's to handle.
                start_new_session=True,
            )
        self._control.setblocking(False)

    def is_alive(self) -> bool:
        return self._process.poll() is None

    async def open(self, box: socket.socket) -> int:
        """Hand over the supervisor's end of a sandbox's socket; the sandbox's number."""
        self._next_number += 1
        number = self._next_number
        while True:
            try:
                socket.send_fds(self._control, [b"open %d" % number], [box.fileno()])
                return number
            except BlockingIOError:
                # Some 200 wait in the queue already. There is no event for several tasks on one socket.
                await asyncio.sleep(_QUEUE_FULL_S)
            except OSError as error:
                raise self.failure() from error

    def kill(self, number: int) -> None:
        try:
            self._control.send(b"kill %d" % number)
        except OSError:
            # The queue is full or the zygote gone: the supervisor still ends at its socket's end.
            return

    def failure(self) -> SandboxUnavailable | SandboxLost:
        """Why the zygote takes no orders: what it said before it left."""
        try:
            said = self._control.recv(4096)
            while said == b"ready":
                said = self._control.recv(4096)
        except OSError:
            said = b""
        if said.startswith(b"error "):
            return SandboxUnavailable(said[6:].decode(errors="replace"))
        return SandboxLost(f"the {self.tier} zygote (process {self._process.pid}) died; open another sandbox")

    def stop(self) -> None:
        self._control.close()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        if self.owner == os.getpid():
            try:
                self._process.wait(2)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


_zygotes: dict[str, Zygote] = {}
_lock = threading.Lock()


def zygote(tier: str) -> Zygote:
    """The running zygote of a tier; a dead one, or one of the process that forked us, is replaced."""
    with _lock:
        found = _zygotes.get(tier)
        if found is not None and (found.owner != os.getpid() or not found.is_alive()):
            found.stop()
            found = None
        if found is None:
            found = _zygotes[tier] = Zygote(tier)
        return found


def stop_zygotes() -> None:
    """End every zygote of this process; their sandboxes end with their own sockets."""
    with _lock:
        for found in _zygotes.values():
            found.stop()
        _zygotes.clear()


atexit.register(stop_zygotes)


def interpreter() -> str:
    """The Python that programs get as python3: this one's base, without a virtual environment around it."""
    return os.path.realpath(getattr(sys, "_base_executable", sys.executable))


def base_environment() -> dict[str, str]:
    """Every variable that a program sees, before `SandboxSpec.env`.

    The fixed hash seed makes a program's set order the same in each process, forked or not.
    """
    return {
        "PATH": f"{os.path.dirname(interpreter())}:/usr/local/bin:/usr/bin:/bin",
        "HOME": "/workspace",
        "LANG": "C.UTF-8",
        "PYTHONHASHSEED": "0",
    }


class LocalSandbox(Sandbox):
    """A sandbox of an embedded tier; made by `open_local`."""

    def __init__(self, tier: str, spec: SandboxSpec, keeper: Zygote, number: int, sock: socket.socket) -> None:
        self.tier = tier
        self._spec = spec
        self._keeper = keeper
        self._number = number
        self._sock = sock
        self._turn = asyncio.Lock()
        self._buffer = bytearray()
        self._seq = 0
        self._is_closing = False

    async def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout_s: float = 10.0,
        output_limit: int = 1 << 20,
    ) -> ExecResult:
        if isinstance(argv, str) or not argv or any("\0" in word for word in argv):
            raise ValueError(f"argv must be a list of words without NUL, at least one; got {argv!r}")
        if timeout_s <= 0 or output_limit < 0:
            raise ValueError(f"timeout_s={timeout_s} must be over 0 and output_limit={output_limit} not under 0")
        order: Header = {
            "op": "run",
            "argv": tuple(argv),
            "timeout_s": timeout_s,
            "output_limit": output_limit,
        }
        reply, output = await self._call(order, stdin, limit_s=timeout_s + _GRACE_S)
        split: int = reply["stdout"]
        return ExecResult(
            status=ExecStatus(reply["status"]),
            exit_code=reply["exit_code"],
            stdout=output[:split],
            stderr=output[split:],
            omitted_stdout=reply["omitted"][0],
            omitted_stderr=reply["omitted"][1],
            wall_s=reply["wall_s"],
            cpu_s=reply["cpu_s"],
            max_rss_mb=reply["max_rss_mb"],
        )

    async def write(self, path: str, data: bytes) -> None:
        await self._call({"op": "write", "path": path}, data)

    async def read(self, path: str, *, max_bytes: int = 64 << 20) -> bytes:
        return (await self._call({"op": "read", "path": path, "max_bytes": max_bytes}))[1]

    async def list(self, path: str = ".") -> list[str]:
        names: list[str] = (await self._call({"op": "list", "path": path}))[0]["names"]
        return names

    async def remove(self, path: str) -> None:
        await self._call({"op": "remove", "path": path})

    async def close(self) -> None:
        if self._is_closing:
            return
        self._is_closing = True
        try:
            # The supervisor reads the end of the stream, kills what runs, and leaves; a pending call sees that.
            self._sock.shutdown(socket.SHUT_WR)
            async with self._turn:
                await self._wait_until_gone()
        finally:
            self._sock.close()

    async def _wait_until_gone(self) -> None:
        for _ in range(2):
            try:
                async with asyncio.timeout(_CLOSE_S):
                    while await self._receive():
                        self._buffer.clear()
                return
            except TimeoutError:
                self._keeper.kill(self._number)

    async def open(self) -> None:
        """Wait until the supervisor has built its walls."""
        opening: Header = {
            "memory_mb": self._spec.memory_mb,
            "pids": self._spec.pids,
            "disk_mb": self._spec.disk_mb,
            "cpus": self._spec.cpus,
            "env": dict(self._spec.env),
        }
        async with self._turn:
            await self._send(opening, b"")
            frame = await self._frame()
        if frame is None:
            raise self._keeper.failure()
        if "error" in frame[0]:
            raise SandboxUnavailable(frame[0]["error"])

    async def _call(
        self, header: Header, payload: bytes = b"", limit_s: float = _GRACE_S
    ) -> tuple[Header, bytes]:
        async with self._turn:
            if self._is_closing:
                raise SandboxLost(f"sandbox {self._number} is closed")
            self._seq += 1
            try:
                async with asyncio.timeout(limit_s):
                    await self._send({**header, "seq": self._seq}, payload)
                    frame = await self._answer()
            except TimeoutError:
                self._keeper.kill(self._number)
                raise SandboxLost(f"sandbox {self._number} gave no answer in {limit_s:.0f} s") from None
        if frame is None:
            raise SandboxLost(f"the supervisor of sandbox {self._number} died; open another sandbox")
        if "error" in frame[0]:
            raise SandboxFileError(frame[0]["error"])
        return frame

    async def _answer(self) -> tuple[Header, bytes] | None:
        """The reply to the present request; those to cancelled ones are dropped."""
        try:
            while (frame := await self._frame()) is not None and frame[0]["seq"] != self._seq:
                pass
            return frame
        except asyncio.CancelledError:
            # The program dies now; its reply is read and dropped by the next call, or by close().
            self._cancel()
            raise

    def _cancel(self) -> None:
        try:
            self._sock.send(_wire.request({"op": "cancel"}))
        except OSError:
            # A supervisor that is gone, or so far behind that its socket is full: end it instead.
            self._keeper.kill(self._number)

    async def _send(self, header: Header, payload: bytes) -> None:
        frame = memoryview(_wire.request(header, payload))
        try:
            frame = frame[self._sock.send(frame) :]
            if frame:
                await asyncio.get_running_loop().sock_sendall(self._sock, frame)
        except BlockingIOError:
            await asyncio.get_running_loop().sock_sendall(self._sock, frame)
        except asyncio.CancelledError:
            # Half a frame is on the wire and nothing can follow it.
            self._sock.shutdown(socket.SHUT_WR)
            raise
        except (BrokenPipeError, ConnectionResetError):
            # The reader finds the end of the stream, and says what it means.
            return

    async def _frame(self) -> tuple[Header, bytes] | None:
        """The next frame, or None at the end of the stream."""
        needed = _wire.LENGTHS.size
        while True:
            if len(self._buffer) >= needed:
                frame, needed = _wire.unpack(self._buffer)
                if frame is not None:
                    return frame
            elif not await self._receive():
                return None

    async def _receive(self) -> bool:
        """Add what has arrived to the buffer; False at the end of the stream."""
        try:
            chunk = await asyncio.get_running_loop().sock_recv(self._sock, 1 << 18)
        except ConnectionResetError:
            return False
        self._buffer += chunk
        return bool(chunk)


async def open_local(tier: str, spec: SandboxSpec) -> LocalSandbox:
    """A sandbox of exactly this tier. `SandboxUnavailable` when the machine refuses one of its walls."""
    if (reason := require_linux()) is not None:
        raise SandboxUnavailable(reason)
    keeper = zygote(tier)
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    try:
        with theirs:
            number = await keeper.open(theirs)
        box = LocalSandbox(tier, spec, keeper, number, ours)
        await box.open()
    except BaseException:
        ours.close()
        raise
    return box
