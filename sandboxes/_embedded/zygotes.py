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
import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import NamedTuple

from .._forks import keep_from_forks
from ..errors import SandboxLost, SandboxUnavailable

_BOOT = (
    "import sys, types; package = types.ModuleType('_palaestra'); package.__path__ = [sys.argv[1]]; "
    "sys.modules['_palaestra'] = package; from _palaestra._embedded.zygote import main; "
    "main(sys.argv[2], int(sys.argv[3]), *sys.argv[4:])"
)
_QUEUE_FULL_S = 0.002

MAX_PARKED = 64
"""Sandboxes of the same limits that may wait for their next owner."""

Limits = tuple[float, ...]
"""What two sandboxes of one zygote may differ in."""


class Parked(NamedTuple):
    """A sandbox between two owners."""

    number: int
    sock: socket.socket
    until: float
    """When it leaves, by the monotonic clock."""


class Zygote:
    """The driver's handle on one zygote process."""

    def __init__(self, tier: str, venv: str = "", preload: tuple[str, ...] = ()) -> None:
        self.tier = tier
        self.owner = os.getpid()
        # Event loops in several threads may open sandboxes: `next` gives no number twice.
        self._numbers = count(1)
        self._refusal: str | None = None
        self._parking = threading.RLock()
        self._parked: dict[Limits, list[Parked]] = {}
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        here = str(Path(__file__).resolve().parent.parent)
        with theirs:
            self._process = subprocess.Popen(
                [interpreter(), "-S", "-c", _BOOT, here, tier, str(theirs.fileno()), venv, *preload],
                env=base_environment(venv, bool(preload)),
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

    def park(self, limits: Limits, parked: Parked) -> None:
        """Keep a sandbox that is as new. It leaves by itself when nobody takes it soon."""
        with self._parking:
            self.drop_late()
            waiting = self._parked.setdefault(limits, [])
            if len(waiting) >= MAX_PARKED:
                waiting.pop(0).sock.close()
            waiting.append(parked)

    def take_parked(self, limits: Limits) -> Parked | None:
        """The one that was parked last, if any; it may have left meanwhile."""
        with self._parking:
            self.drop_late()
            waiting = self._parked.get(limits)
            return waiting.pop() if waiting else None

    def drop_late(self) -> None:
        """Let go of those that have left."""
        with self._parking:
            for waiting in self._parked.values():
                while waiting and waiting[0].until <= time.monotonic():
                    waiting.pop(0).sock.close()

    def _let_go_of_parked(self) -> None:
        with self._parking:
            for waiting in self._parked.values():
                for parked in waiting:
                    parked.sock.close()
            self._parked.clear()

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
        # In a fork another thread may have held the lock, and the sockets are closed already.
        if is_ours:
            self._let_go_of_parked()
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


_Key = tuple[str, str, tuple[str, ...]]
_zygotes: dict[_Key, Zygote] = {}
_lock = threading.Lock()


def zygote(tier: str, venv: str = "", preload: tuple[str, ...] = ()) -> Zygote:
    """The running zygote of a tier; a dead one, or one of the process that forked us, is replaced."""
    key = tier, venv, preload
    with _lock:
        found = _zygotes.get(key)
        if found is not None and (found.owner != os.getpid() or not found.is_alive()):
            found.stop()
            found = None
        if found is None:
            found = _zygotes[key] = Zygote(*key)
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


_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def base_environment(venv: str, is_preloaded: bool) -> dict[str, str]:
    """Every variable that a program sees, before `SandboxSpec.env`.

    The fixed hash seed makes a program's set order the same in each process, forked or not. Threads that a
    module started when it was loaded ahead would be in no fork of it.
    """
    directories = [os.path.dirname(interpreter()), "/usr/local/bin", "/usr/bin", "/bin"]
    environment = {"HOME": "/workspace", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"}
    if venv:
        directories.insert(0, f"{venv}/bin")
        environment["VIRTUAL_ENV"] = venv
    if is_preloaded:
        environment.update(_ONE_THREAD)
    return {"PATH": ":".join(directories), **environment}


def require_venv(path: str) -> str:
    """The real path of a virtual environment. Raises `ValueError` for one that programs could not use."""
    real = os.path.realpath(path)
    try:
        lines = Path(real, "pyvenv.cfg").read_text().splitlines()
    except OSError as error:
        raise ValueError(f"SandboxSpec.venv={path!r} is no virtual environment: {error.strerror}") from None
    home = next(
        (line.partition("=")[2].strip() for line in lines if line.split("=")[0].strip() == "home"), ""
    )
    here = os.path.dirname(interpreter())
    if os.path.realpath(home) != here:
        raise ValueError(
            f"SandboxSpec.venv={path!r} is of the Python in {home!r}, and programs get that in {here!r}: "
            "make one with the Python that runs this"
        )
    return real
