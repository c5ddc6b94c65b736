"""The driver's handle on its reaper: one per engine and driver process, started with the first container."""

import atexit
import os
import socket
import subprocess
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress

from .._embedded.zygotes import interpreter
from .._forks import keep_from_forks
from . import reaper
from .owner import our_label


class Reaper:
    """A process that outlives this one by as long as it takes to remove our containers (`reaper.py`)."""

    def __init__(self, address: str) -> None:
        self._owner = os.getpid()
        self._sock, theirs = socket.socketpair()
        with theirs:
            # It holds nothing of ours: no descriptor, terminal, environment or directory.
            self._process = subprocess.Popen(
                [interpreter(), "-I", "-S", "-B", reaper.__file__, address, our_label()],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={},
                cwd="/",
                start_new_session=True,
            )
        # A full socket is a reaper that has stopped.
        self._sock.setblocking(False)
        keep_from_forks(self._sock)

    @property
    def pid(self) -> int:
        return self._process.pid

    def is_ours_and_alive(self) -> bool:
        return self._owner == os.getpid() and self._process.poll() is None

    @contextmanager
    def creating(self, name: str) -> Generator[None, None, None]:
        """Around the creation of a container of this name: if we die in it, the reaper waits for it."""
        self._tell(f"+{name}\n")
        try:
            yield
        finally:
            self._tell(f"-{name}\n")

    def _tell(self, line: str) -> None:
        with suppress(OSError):  # it was killed; the next container brings another, which finds this one too
            self._sock.sendall(line.encode())

    def stop(self) -> None:
        """Let it do its work and go."""
        self._sock.close()
        if self._owner == os.getpid():
            with suppress(subprocess.TimeoutExpired):  # it has work to do, and needs nobody for it
                self._process.wait(1)


_reapers: dict[str, Reaper] = {}
_lock = threading.Lock()


def reaper_at(address: str) -> Reaper:
    """The running reaper of an engine; a dead one, or one of the process that forked us, is replaced."""
    with _lock:
        found = _reapers.get(address)
        if found is None or not found.is_ours_and_alive():
            if found is not None:
                found.stop()
            found = _reapers[address] = Reaper(address)
        return found


def stop_reaper(address: str) -> None:
    """End the reaper of one engine, which removes what containers this process has left there."""
    with _lock:
        found = _reapers.pop(address, None)
    if found is not None:
        found.stop()


def stop_reapers() -> None:
    """At the end of this process: what containers it has left are removed."""
    with _lock:
        for found in _reapers.values():
            found.stop()
        _reapers.clear()


atexit.register(stop_reapers)
