"""The driver's handles on its zygotes: one per tier and driver process, started when first asked for.

Nothing here forks the driver (it may hold threads and a GPU), and nothing belongs to an event loop.
"""

import asyncio
import atexit
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from weakref import WeakSet

from ..errors import SandboxLost, SandboxUnavailable

_BOOT = (
    "import sys, types; package = types.ModuleType('_palaestra'); package.__path__ = [sys.argv[1]]; "
    "sys.modules['_palaestra'] = package; from _palaestra._embedded.zygote import main; "
    "main(sys.argv[2], int(sys.argv[3]))"
)
_QUEUE_FULL_S = 0.002

_ours = WeakSet[socket.socket]()


def keep_from_forks(sock: socket.socket) -> None:
    """Close `sock` in every fork of this process, which would hold it when the driver has been killed."""
    _ours.add(sock)


def _close_in_fork() -> None:
    for sock in list(_ours):
        sock.close()


os.register_at_fork(after_in_child=_close_in_fork)


class Zygote:
    """The driver's handle on one zygote process."""

    def __init__(self, tier: str) -> None:
        self.tier = tier
        self.owner = os.getpid()
        # Event loops in several threads may open sandboxes: `next` gives no number twice.
        self._numbers = count(1)
        self._refusal: str | None = None
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        here = str(Path(__file__).resolve().parent.parent)
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
        keep_from_forks(self._control)

    @property
    def pid(self) -> int:
        return self._process.pid

    def is_alive(self) -> bool:
        return self._process.poll() is None

    async def open(self, box: socket.socket, layers: Sequence[int] = ()) -> int:
        """Hand over the supervisor's end of a sandbox's socket; the sandbox's number.

        `layers`: what another sandbox of this tier sent for "freeze".
        """
        number = next(self._numbers)
        while True:
            try:
                socket.send_fds(self._control, [b"open %d" % number], [box.fileno(), *layers])
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
        if self._refusal is None:
            self._refusal = self._last_words()
        if self._refusal:
            return SandboxUnavailable(self._refusal)
        return self.lost(f"the {self.tier} zygote (process {self.pid}) or the new sandbox died at its start")

    def lost(self, what: str) -> SandboxLost:
        """A fault of ours, with what the zygote or a supervisor wrote last."""
        words = self._read_log().decode(errors="replace").strip().rpartition("\n")[2]
        return SandboxLost(f"{what}; open another sandbox" + (f" (it said: {words})" if words else ""))

    def _read_log(self) -> bytes:
        log = self._process.stdout
        if log is None or log.closed:
            return b""
        os.set_blocking(log.fileno(), False)
        return log.read() or b""

    def _last_words(self) -> str:
        while True:
            try:
                said = self._control.recv(4096)
            except ConnectionResetError:
                # Orders that it did not read. This is told once, ahead of what it wrote.
                continue
            except OSError:
                return ""
            if not said or said.startswith(b"error "):
                return said[6:].decode(errors="replace")

    def stop(self) -> None:
        is_ours = self.owner == os.getpid()
        if is_ours and self._refusal is None and not self.is_alive():
            # Sandboxes that wait for it may still ask why.
            self._refusal = self._last_words()
        self._control.close()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        if is_ours:
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
