"""The driver's side of the embedded tiers: one zygote per tier, one socket per sandbox.

    driver ──"open 7" + socket──> zygote ──clone──> supervisor of sandbox 7
       └─────────────────── frames on that socket ────────────┘

An open sandbox belongs to the event loop that opened it; zygotes belong to none.
"""

import asyncio
import marshal
import socket
from collections.abc import Sequence
from contextlib import suppress

from ._embedded.zygotes import Zygote, keep_from_forks, zygote
from ._inside import wire
from ._inside.linux import require_linux
from ._inside.wire import Header
from .errors import SandboxFileError, SandboxLost, SandboxUnavailable
from .sandbox import ExecResult, ExecStatus, Sandbox, SandboxSpec, require_call

_GRACE_S = 30.0
"""How long a start may take, and an answer after a program's timeout, on an overloaded machine."""
_CLOSE_S = 5.0


class LocalSandbox(Sandbox):
    """A sandbox of an embedded tier; made by `open_local`."""

    def __init__(
        self, tier: str, spec: SandboxSpec, keeper: Zygote, number: int, sock: socket.socket
    ) -> None:
        self.tier = tier
        self._spec = spec
        self._keeper = keeper
        self.number = number
        """Which of its zygote's sandboxes this is."""
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
        require_call(argv, timeout_s, output_limit)
        command = marshal.dumps(tuple(argv))
        order: Header = {
            "op": "run",
            "argv_size": len(command),
            "timeout_s": timeout_s,
            "output_limit": output_limit,
        }
        reply, output = await self._call(order, command, stdin, limit_s=timeout_s + _GRACE_S)
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
            # The supervisor reads the end of the stream, kills what runs and leaves; a pending call sees it.
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
                self._keeper.kill(self.number)

    async def open(self) -> None:
        """Wait until the supervisor has built its walls."""
        opening: Header = {
            "memory_mb": self._spec.memory_mb,
            "pids": self._spec.pids,
            "disk_mb": self._spec.disk_mb,
            "cpus": self._spec.cpus,
            "env": dict(self._spec.env),
        }
        try:
            async with asyncio.timeout(_GRACE_S):
                await self._send(opening)
                frame = await self._frame()
        except TimeoutError:
            self._keeper.kill(self.number)
            raise SandboxLost(f"sandbox {self.number} did not start in {_GRACE_S:g} s") from None
        if frame is None:
            raise self._keeper.failure()
        if "error" in frame[0]:
            raise SandboxUnavailable(frame[0]["error"])

    async def _call(self, header: Header, *payload: bytes, limit_s: float = _GRACE_S) -> tuple[Header, bytes]:
        async with self._turn:
            if self._is_closing:
                raise SandboxLost(f"sandbox {self.number} is closed")
            self._seq += 1
            try:
                async with asyncio.timeout(limit_s):
                    await self._send({**header, "seq": self._seq}, *payload)
                    frame = await self._answer()
            except TimeoutError:
                self._keeper.kill(self.number)
                raise SandboxLost(f"sandbox {self.number} gave no answer in {limit_s:.0f} s") from None
        if frame is None:
            raise self._keeper.lost(f"the supervisor of sandbox {self.number} died")
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
            self._sock.send(wire.request({"op": "cancel"}))
        except OSError:
            # A supervisor that is gone, or so far behind that its socket is full: end it instead.
            self._keeper.kill(self.number)

    async def _send(self, header: Header, *payload: bytes) -> None:
        frame = memoryview(wire.request(header, *payload))
        try:
            with suppress(BlockingIOError):
                frame = frame[self._sock.send(frame) :]
            if frame:
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
        needed = wire.LENGTHS.size
        while True:
            if len(self._buffer) >= needed:
                frame, needed = wire.unpack(self._buffer)
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
    keep_from_forks(ours)
    try:
        with theirs:
            number = await keeper.open(theirs)
        box = LocalSandbox(tier, spec, keeper, number, ours)
        await box.open()
    except BaseException:
        ours.close()
        raise
    return box
