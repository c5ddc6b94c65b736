"""Graders that are programs on this machine: a process each, which a restart of the run finds again."""

import asyncio
import fcntl
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from .job import Answer, Broken, GradeRequest, Inbox, Running
from .wire import ENDED, read_answer, request_json, whole_json

_RUNNER = Path(__file__).with_name("_runner.py")
_LOCK_FD = 3
"""Where the runner has the lock of its try."""
STOP_S = 5.0
"""What a runner may take to end all that its program has started; then it is killed."""


class Program:
    """Each try is a program that reads the request on standard input and answers on standard output.

    Program(["python3", "judge.py"], folder=run / "grading")

    It goes on when the run is killed, within its `limit_s`, and its answer waits in a folder of its own.
    """

    is_durable = True
    poll_s: float | None = None

    def __init__(
        self,
        argv: Sequence[str],
        *,
        folder: Path,
        encode: Callable[[GradeRequest], bytes] = request_json,
    ) -> None:
        """`folder`: where tries are kept while they are under way."""
        self._argv, self._folder, self._encode = list(argv), folder.resolve(), encode
        self._started: dict[str, int] = {}

    async def open(self, inbox: Inbox) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)

    async def close(self) -> None:
        """Graders that are under way go on."""
        self._started.clear()

    async def submit(self, request: GradeRequest) -> str:
        folder = self._folder / request.key
        body = self._encode(request)
        return await asyncio.to_thread(self._start, folder, body, request.limit_s)

    def _start(self, folder: Path, body: bytes, limit_s: float) -> str:
        folder.mkdir(exist_ok=True)
        lock = _locked(folder)
        if lock is None or (folder / "result").exists():  # it is under way, or over, since an earlier submit
            if lock is not None:
                os.close(lock)
            return str(folder)
        try:
            (folder / "request").write_bytes(body)
            self._started[str(folder)] = _spawned(
                [sys.executable, "-P", "-S", str(_RUNNER), str(folder), f"{limit_s}", *self._argv], lock
            )
        finally:
            os.close(lock)
        return str(folder)

    async def poll(self, handle: str) -> Answer:
        return await asyncio.to_thread(self._look, handle)

    def _look(self, handle: str) -> Answer:
        folder = Path(handle)
        if not folder.is_dir():
            return Broken(reason=f"lost: there is no folder {folder} any more")
        lock = _locked(folder)  # first: a result that comes after this look is seen by the next
        if lock is not None:
            os.close(lock)
        try:
            result = json.loads((folder / "result").read_bytes())
        except FileNotFoundError:
            alive = lock is None
            return (
                Running(beat=f"{os.times().elapsed}")
                if alive
                else Broken(reason="lost: the grader's process died")
            )
        return _answer(result)

    async def release(self, handle: str) -> None:
        await asyncio.to_thread(self._end, handle)

    def _end(self, handle: str) -> None:
        folder, child = Path(handle), self._started.pop(handle, None)
        if folder.is_dir():
            _stopped(folder, child)
            shutil.rmtree(folder, ignore_errors=True)
        if child is not None:
            os.waitpid(child, 0)


def _spawned(argv: list[str], lock: int) -> int:
    """A process in a session of its own that holds the lock too; `subprocess` minds being left."""
    null = os.devnull
    return os.posix_spawn(
        argv[0],
        argv,
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, null, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, null, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_OPEN, 2, null, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_DUP2, lock, _LOCK_FD),
        ],
        setsid=True,
    )


def _stopped(folder: Path, child: int | None) -> None:
    """Ends a try with all of it. While its lock is held it lives, so that its number is its own."""
    until = time.monotonic() + STOP_S
    is_told = False
    while (lock := _locked(folder)) is None:
        pid = child or _pid(folder)  # a runner that has just started has not written it yet
        with suppress(ProcessLookupError):
            if pid is not None and time.monotonic() >= until:
                os.killpg(pid, signal.SIGKILL)
            elif pid is not None and not is_told:
                os.kill(pid, signal.SIGTERM)
                is_told = True
        time.sleep(0.01)
    os.close(lock)


def _pid(folder: Path) -> int | None:
    try:
        return int((folder / "pid").read_text())
    except (FileNotFoundError, ValueError):
        return None


def _locked(folder: Path) -> int | None:
    """The lock of a try, if nobody has it: then no grader lives there."""
    fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


def _answer(result: Mapping[str, Any]) -> Answer:
    if "error" in result:
        return Broken(reason=result["error"], is_retryable=result["retryable"])
    if result["code"] != 0:
        return Broken(reason=f"crash: exit code {result['code']}: {result['stderr'].strip()}")
    answer = read_answer(result["stdout"])
    if isinstance(answer, Running):
        return Broken(reason=ENDED, is_retryable=False)
    return answer


def own_process(env: str, options: Mapping[str, Any], *, folder: Path) -> Program:
    """The grader of an environment in processes of their own. Tasks must be of plain values."""
    argv = [sys.executable, "-P", "-m", f"{__package__}.child", env, json.dumps(options)]
    return Program(argv, folder=folder, encode=whole_json)
