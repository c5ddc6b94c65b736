"""Sessions: an interpreter that reads commands from its stdin, and answers on a descriptor of its own.

Each command goes with a nonce, and its answer is "nonce exit-code" and a zero byte. Standard output and error
are never parsed, so nothing that a command prints can be taken for an answer.
"""

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from .._inside import python_session
from ..errors import SandboxLost
from ..sandbox import ExecResult, ExecStatus, require_call
from ..session import Session, SessionResult
from .calls import Streams, heard
from .output import HeadTail

INTERRUPT_S = 1.0
"""How long a command may take to heed Ctrl-C at its time limit."""
_ANSWERS = b"3"
_MAX_ANSWER = 64
"""Bytes of an answer. Commands can write to its descriptor too, and need not ever end one."""
_MAX_DIGITS = 3


class SessionJob(Protocol):
    """What a session needs of its job."""

    streams: Streams

    async def send(self, data: bytes, *, is_last: bool = False) -> None: ...
    async def signal(self, number: int = ...) -> None: ...
    async def kill(self) -> ExecResult: ...
    def poll(self) -> ExecResult | None: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Interpreter:
    """How to start one, and how to tell it what to do."""

    argv: Sequence[str]
    order: Callable[[str, str], bytes]
    """(nonce, code) as it reads them."""


def _shell_order(nonce: str, code: str) -> bytes:
    # The shell reads its script from standard input, which the command itself does not have: nor the answers.
    quoted = code.replace("'", "'\\''")
    # A trap, for Ctrl-C to end what the shell runs and not the shell itself.
    return (
        f"trap : INT\neval '{quoted}' </dev/null 3>&-\nbuiltin printf '%s %d\\0' {nonce} \"$?\" >&3\n"
    ).encode(errors="surrogateescape")


def _python_order(nonce: str, code: str) -> bytes:
    text = code.encode()
    return f"{nonce} {len(text)}\n".encode() + text


SHELL = Interpreter(argv=("bash", "--noprofile", "--norc", "-s"), order=_shell_order)
PYTHON = Interpreter(argv=("python3", "-c", Path(python_session.__file__).read_text()), order=_python_order)


class LiveSession(Session):
    """A session of a `BoxClient`. Its interpreter is started with the first command, and after each loss."""

    def __init__(self, start: Callable[[Sequence[str]], SessionJob], interpreter: Interpreter) -> None:
        self._start = start
        self._interpreter = interpreter
        self._job: SessionJob | None = None
        self._turn = asyncio.Lock()

    async def run(self, code: str, *, timeout_s: float = 10.0, output_limit: int = 1 << 20) -> SessionResult:
        require_call((code or "pass",), timeout_s, output_limit)
        async with self._turn:
            job = self._job
            if job is None or job.streams.is_over:
                job = self._job = self._start(self._interpreter.argv)
            command = _Command(job, timeout_s, HeadTail(output_limit), HeadTail(output_limit))
            try:
                return await command.run(secrets.token_hex(8), self._interpreter, code)
            except BaseException:
                # Whatever it was doing would answer into the next command.
                self._job = None
                with suppress(
                    SandboxLost
                ):  # the first error is the one to tell, and a cancellation stays one
                    await job.kill()
                raise

    async def interrupt(self) -> None:
        if self._job is not None and not self._job.streams.is_over:
            await self._job.signal()

    async def close(self) -> None:
        job, self._job = self._job, None
        if job is not None and not job.streams.is_over:
            await job.kill()


class _Command:
    """One command under way."""

    def __init__(self, job: SessionJob, timeout_s: float, stdout: HeadTail, stderr: HeadTail) -> None:
        self._job, self._timeout_s = job, timeout_s
        self._outputs = {b"1": stdout, b"2": stderr}
        self._answers = b""

    async def run(self, nonce: str, interpreter: Interpreter, code: str) -> SessionResult:
        started = time.monotonic()
        sending = asyncio.ensure_future(self._job.send(interpreter.order(nonce, code)))
        # If the sandbox is lost, the answer that does not come tells.
        sending.add_done_callback(heard)
        status: ExecStatus | None = None
        try:
            try:
                async with asyncio.timeout(self._timeout_s):
                    exit_code = await self._answer(nonce.encode())
            except TimeoutError:
                status = ExecStatus.TIMEOUT
                exit_code = await self._interrupted(nonce.encode())
        finally:
            sending.cancel()
        end = self._job.poll()
        if status is None and end is not None and exit_code is None:
            status, exit_code = end.status, end.exit_code
        elif status is None:
            status = ExecStatus.NONZERO if exit_code else ExecStatus.OK
        stdout, stderr = self._outputs.values()
        return SessionResult(
            result=ExecResult(
                status=status,
                exit_code=None if status is ExecStatus.TIMEOUT else exit_code,
                stdout=stdout.value(),
                stderr=stderr.value(),
                omitted_stdout=stdout.omitted,
                omitted_stderr=stderr.omitted,
                wall_s=time.monotonic() - started,
            ),
            is_lost=self._job.streams.is_over,
        )

    async def _interrupted(self, nonce: bytes) -> int | None:
        """Ctrl-C; then, if nothing came of it, the end."""
        await self._job.signal()
        try:
            async with asyncio.timeout(INTERRUPT_S):
                return await self._answer(nonce)
        except TimeoutError:
            await self._job.kill()
            return None

    async def _answer(self, nonce: bytes) -> int | None:
        """The exit code, or None when the session ended instead."""
        streams = self._job.streams
        while (chunk := await streams.next()) is not None:
            number, data = chunk
            streams.drop_first()
            if number != _ANSWERS:
                self._outputs[number].feed(data)
                continue
            *whole, rest = (self._answers + data).split(b"\0")
            self._answers = rest[-_MAX_ANSWER:]
            for answer in whole:
                word, _, code = answer.partition(b" ")
                if word == nonce and code.isdigit() and len(code) <= _MAX_DIGITS:
                    return int(code)
        await streams.ended()  # raises when it was the sandbox that ended
        return None
