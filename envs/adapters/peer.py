"""A program of another environment that speaks JSON lines: many conversations over one pair of pipes."""

import atexit
import contextlib
import json
import queue
import subprocess
import threading
from asyncio import AbstractEventLoop, Queue, get_running_loop
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, cast

from .errors import PeerLost

Said = dict[str, Any] | None
"""One line of the program; None: it has ended."""
END_S = 5.0
"""Seconds that a program gets to end after its standard input or output was closed."""


class Peer:
    """One process, started by its first use and kept for the next ones; it ends with this process.

    Threads move its lines, so that one peer serves every event loop and a full pipe holds none of them up. A
    line that cannot be read ends the program: nobody knows any more who waits for what.
    """

    _running: ClassVar[dict[tuple[str, ...], "Peer"]] = {}

    def __init__(self, command: tuple[str, ...]) -> None:
        self.command = command
        self._talks: dict[int, Callable[[Said], None]] = {}
        self._lock = threading.Lock()
        self._num_talks = 0
        self._unsent: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._errors: deque[bytes] = deque(maxlen=20)
        self._trouble = ""
        self._has_ended = False
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
        except OSError as error:
            raise PeerLost(f"{command[0]}: {error}", is_retryable=False) from error
        self._threads = [
            threading.Thread(target=work, daemon=True, name="palaestra-peer")
            for work in (self._read, self._read_errors, self._write)
        ]
        for thread in self._threads:
            thread.start()

    @classmethod
    def of(cls, *command: str) -> "Peer":
        """The running process of that command, or a new one."""
        peer = cls._running.get(command)
        if peer is None or peer._has_ended:
            peer = cls._running[command] = cls(command)
        return peer

    @classmethod
    def end_all(cls) -> None:
        """End every process. Each also ends by itself when its standard input closes."""
        while cls._running:
            cls._running.popitem()[1].end()

    @property
    def pid(self) -> int:
        return self._process.pid

    def end(self) -> None:
        self._unsent.put(None)
        self._wait()
        for thread in self._threads:
            thread.join(END_S)

    def open(self, deliver: Callable[[Said], None]) -> int:
        """The number of a new conversation, whose lines go to `deliver`, from a thread."""
        with self._lock:
            self._num_talks += 1
            self._talks[self._num_talks] = deliver
            number, has_ended = self._num_talks, self._has_ended
        if has_ended:
            deliver(None)
        return number

    def close(self, number: int) -> None:
        self._talks.pop(number, None)

    def send(self, number: int, line: Mapping[str, Any]) -> None:
        """Never waits: a thread writes. Raises `PeerLost` when the program has ended; where it ends before it
        has read the line, the conversation hears of its end."""
        if self._has_ended:
            raise self.lost()
        self._unsent.put(json.dumps({"talk": number, **line}).encode() + b"\n")

    def lost(self) -> PeerLost:
        wrote = b"".join(self._errors).decode(errors="replace").strip()[-500:]
        told = f"; it wrote: {wrote}" if wrote else ""
        why = self._trouble or f"ended with {self._process.poll()}"
        return PeerLost(f"{' '.join(self.command)[:200]}: {why}{told}")

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                if not line.endswith(b"\n"):
                    break  # it has ended in the middle
                try:
                    talk, said = _read_line(line)
                except ValueError as error:
                    self._trouble = f"it was ended, because it said {line[:200]!r}: {error}"
                    self._process.kill()
                    break
                deliver = self._talks.get(talk)
                if deliver is not None:
                    deliver(said)
        self._unsent.put(None)
        self._wait()
        with self._lock:
            self._has_ended = True
            waiting = list(self._talks.values())
        for deliver in waiting:
            deliver(None)

    def _write(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # what was not read is lost with the program
            with self._process.stdin as pipe:
                while (line := self._unsent.get()) is not None:
                    pipe.write(line)
                    pipe.flush()
            return
        self._wait()  # it reads no more, and those who wait for an answer would wait for ever

    def _wait(self) -> None:
        """Until the program has ended, by force after a while."""
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as lines:
            self._errors.extend(lines)


def _read_line(line: bytes) -> tuple[int, dict[str, Any]]:
    """(talk, the rest). Raises `ValueError`."""
    try:
        said: object = json.loads(line)
    except RecursionError as error:
        raise ValueError("it is too deep") from error
    if not isinstance(said, dict):
        raise ValueError("it is no object")
    fields = cast(dict[str, Any], said)
    talk = fields.pop("talk", None)
    if not isinstance(talk, int):
        raise ValueError("it has no number of a talk")
    return talk, fields


atexit.register(Peer.end_all)


class Talk:
    """One conversation with a peer, for the event loop that opened it."""

    def __init__(self, peer: Peer) -> None:
        self._peer, self._loop = peer, get_running_loop()
        self._heard: Queue[Said] = Queue()
        self._number = peer.open(self._deliver)

    def _deliver(self, said: Said) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
            loop: AbstractEventLoop = self._loop
            loop.call_soon_threadsafe(self._heard.put_nowait, said)

    async def ask(self, **line: Any) -> dict[str, Any]:
        """Say a line; the next line that comes back."""
        self._peer.send(self._number, line)
        said = await self._heard.get()
        if said is None:
            raise self._peer.lost()
        return said

    def close(self, **line: Any) -> None:
        """Say a last line, which nobody need hear."""
        self._peer.close(self._number)
        with contextlib.suppress(PeerLost):
            self._peer.send(self._number, line)


def ask_now(peer: Peer, *, timeout_s: float, **line: Any) -> dict[str, Any]:
    """One question and its answer, without an event loop. Raises `PeerLost`, also after `timeout_s`."""
    heard: queue.SimpleQueue[Said] = queue.SimpleQueue()
    number = peer.open(heard.put)
    try:
        peer.send(number, line)
        said = heard.get(timeout=timeout_s)
    except queue.Empty:
        raise PeerLost(f"{' '.join(peer.command)[:200]}: no answer within {timeout_s:g} s") from None
    finally:
        peer.close(number)
    if said is None:
        raise peer.lost()
    return said
