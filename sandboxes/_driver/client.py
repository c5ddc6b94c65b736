"""A sandbox whose first process runs `_inside/loop.py`, seen from the driver."""

import asyncio
import hashlib
import marshal
import os
import socket
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar

from .._inside.relay import FIRST_CHANNEL, PROXY_PORT
from .._inside.wire import MARSHAL_VERSION
from ..errors import SandboxError, SandboxFileError, SandboxLost
from ..sandbox import ExecResult, Sandbox, SandboxSpec, is_word, require_call
from ..session import Session
from . import parts
from .calls import Answer, Outcome, Receiver, Words, heard
from .copying import copy_workspace
from .jobs import ClientJob
from .link import Link, Unwrap
from .network import Gate, server_for
from .sessions import PYTHON, SHELL, LiveSession

if TYPE_CHECKING:
    from ..proxy import Refusal

T = TypeVar("T")

_MAX_REFUSALS = 1000
_PROXY = f"http://127.0.0.1:{PROXY_PORT}"
_PROXY_ENV = {
    **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), _PROXY),
    **dict.fromkeys(("NO_PROXY", "no_proxy"), "localhost,127.0.0.1,::1"),
}

GRACE_S = 30.0
"""How long a start may take, and an answer after a program's timeout, on an overloaded machine."""


class BoxClient(Sandbox):
    """Connects over `sock`, which is its to close. A tier says how to end a sandbox from outside."""

    def __init__(
        self,
        tier: str,
        spec: SandboxSpec,
        sock: socket.socket,
        *,
        is_proxied: bool,
        unwrap: Unwrap | None = None,
    ) -> None:
        self.tier = tier
        self.spec = spec
        self._numbers = count(1)
        self._receivers: dict[int, Receiver] = {}
        self._jobs: dict[int, ClientJob] = {}
        self._keyed: dict[str, tuple[bytes, asyncio.Task[ExecResult]]] = {}
        self.is_closing = False
        self._ended = asyncio.Event()
        self.refusals: deque[Refusal] = deque(maxlen=_MAX_REFUSALS)
        """The last requests to the network that were refused."""
        serve = server_for(spec.network, self.refusals.append) if is_proxied else None
        self._gate = Gate(self, serve) if serve else None
        self.link = Link(sock, self._on_reply, self._on_end, unwrap)

    @abstractmethod
    async def open_twin(self) -> "BoxClient":
        """An empty sandbox of the same tier and spec."""

    @abstractmethod
    def end_now(self) -> None:
        """Kill the first process from outside, and with it everything."""

    @abstractmethod
    def why_lost(self) -> SandboxError:
        """What is known of the end of the connection."""

    # ------------------------------------------------------------ calls

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
        require_call(argv, timeout_s, output_limit, env, cwd)
        running = self._run(argv, stdin, timeout_s, output_limit, env, cwd)
        if key is None:
            return await running
        asked = hashlib.sha256(self._command(argv, env, cwd) + stdin).digest()
        known, task = self._keyed.get(key, (asked, None))
        if task is None:
            task = asyncio.ensure_future(running)
            # Whoever asked may have left: then nobody hears that the sandbox was closed under it.
            task.add_done_callback(heard)
            self._keyed[key] = (asked, task)
        else:
            running.close()
            if known != asked:
                raise ValueError(
                    f"key={key!r} was given for another program, input, environment or directory than "
                    f"{argv!r:.200}; give each its own"
                )
        return await asyncio.shield(task)

    async def _run(
        self,
        argv: Sequence[str],
        stdin: bytes,
        timeout_s: float,
        output_limit: int,
        env: Mapping[str, str] | None,
        cwd: str,
    ) -> ExecResult:
        called = time.monotonic()
        outcome = Outcome()
        command = self._command(argv, env, cwd)
        head = {
            "op": "run",
            "kind": "run",
            "command_size": len(command),
            "more_stdin": len(stdin) > parts.PART,
            "timeout_s": timeout_s,
            "output_limit": output_limit,
        }
        channel = self.send(outcome, head, command, stdin[: parts.PART])
        feeding = parts.feed_rest(self, channel, stdin)
        try:
            result = await self.within(outcome.future, timeout_s + GRACE_S)
        except asyncio.CancelledError:
            # The program dies now; its reply has a receiver still.
            self.tell({"op": "cancel", "job": channel})
            raise
        finally:
            if feeding is not None:
                feeding.cancel()
        return replace(result, queue_s=max(0.0, time.monotonic() - called - result.wall_s))

    def _command(self, argv: Sequence[str], env: Mapping[str, str] | None, cwd: str) -> bytes:
        given = {**(_PROXY_ENV if self._gate else {}), **self.spec.env, **(env or {})}
        return marshal.dumps((tuple(argv), given, cwd), MARSHAL_VERSION)

    async def start(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes | None = b"",
        timeout_s: float | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str = ".",
    ) -> ClientJob:
        require_call(argv, 1.0 if timeout_s is None else timeout_s, 0, env, cwd)
        return self.start_job("job", argv, stdin, timeout_s, env, cwd)

    def start_job(
        self,
        kind: str,
        argv: Sequence[str],
        stdin: bytes | None,
        timeout_s: float | None,
        env: Mapping[str, str] | None,
        cwd: str,
    ) -> ClientJob:
        command = self._command(argv, env, cwd)
        head = {
            "op": "run",
            "kind": kind,
            "command_size": len(command),
            "more_stdin": stdin is None or len(stdin) > parts.PART,
            "timeout_s": timeout_s,
            "output_limit": 0,
        }
        job = ClientJob(self, next(self._numbers), takes_input=stdin is None)
        self.send_as(job.id, job.streams, head, command, (stdin or b"")[: parts.PART])
        self._jobs[job.id] = job
        job.feeding = parts.feed_rest(self, job.id, stdin or b"")
        return job

    def _start_session(self, argv: Sequence[str]) -> ClientJob:
        return self.start_job("session", argv, None, None, None, ".")

    def job(self, id: int) -> ClientJob:
        if id not in self._jobs:
            raise ValueError(f"this sandbox has no job {id}; it has {sorted(self._jobs)}")
        return self._jobs[id]

    async def shell(self) -> Session:
        return LiveSession(self._start_session, SHELL)

    async def python(self) -> Session:
        return LiveSession(self._start_session, PYTHON)

    async def write(self, path: str, data: bytes) -> None:
        await parts.write(self, path, data)

    async def read(self, path: str, *, max_bytes: int = 64 << 20) -> bytes:
        return await parts.read(self, path, max_bytes)

    async def list(self, path: str = ".") -> list[str]:
        names = await self.file_call({"op": "list", "path": path})
        return [os.fsdecode(name) for name in names.split(b"\0")] if names else []

    async def remove(self, path: str) -> None:
        await self.file_call({"op": "remove", "path": path})

    async def file_call(self, head: dict[str, Any], *payload: bytes) -> bytes:
        """One request about the file `head["path"]`; the answer's payload."""
        if not is_word(head["path"]):
            raise SandboxFileError(f"{head['path']!r:.200}: a path is UTF-8 text without NUL")
        return await self.ask(head, *payload)

    async def ask(self, head: dict[str, Any], *payload: bytes) -> bytes:
        """One request that is answered by "ok"; the answer's payload."""
        answer = Answer()
        self.send(answer, head, *payload)
        words, content = await self.within(answer.future, GRACE_S)
        if words[0] == b"refused":
            raise SandboxFileError(content.decode(errors="replace"))
        if words[0] != b"ok":
            raise SandboxLost(f"the sandbox does not make sense: it said {words[0]!r:.100}")
        return content

    async def fork(self) -> "BoxClient":
        if self.is_busy:
            raise SandboxFileError("programs are running; a workspace is forked between them")
        twin = await self.open_twin()
        try:
            await copy_workspace(self, twin)
        except BaseException:
            await twin.close()
            raise
        return twin

    # ------------------------------------------------------------ the connection

    def send(self, receiver: Receiver, head: dict[str, Any], *payload: bytes) -> int:
        channel = next(self._numbers)
        self.send_as(channel, receiver, head, *payload)
        return channel

    def send_as(self, channel: int, receiver: Receiver, head: dict[str, Any], *payload: bytes) -> None:
        if self.is_closing and channel:
            raise SandboxLost("the sandbox is closed")
        if not self.link.is_open:
            raise self.why_lost()
        self._receivers[channel] = receiver
        self.link.send(channel, head, *payload)

    async def within(self, future: "asyncio.Future[T]", limit_s: float) -> T:
        try:
            async with asyncio.timeout(limit_s):
                return await future
        except TimeoutError:
            self.end_now()
            raise SandboxLost(f"the sandbox gave no answer in {limit_s:.0f} s") from None

    def _on_reply(self, channel: int, words: Words, payload: bytes) -> None:
        if self._gate is not None and channel >= FIRST_CHANNEL:
            self._gate.take(channel, words, payload)
            return
        receiver = self._receivers.get(channel)
        if receiver is not None and receiver.take(words, payload):
            del self._receivers[channel]

    def _on_end(self) -> None:
        self._ended.set()
        error = SandboxLost("the sandbox was closed under a call") if self.is_closing else self.why_lost()
        for receiver in self._receivers.values():
            receiver.lose(error)
        self._receivers.clear()

    def tell(self, head: dict[str, Any]) -> None:
        """A request without a reply."""
        self.link.send(0, head)

    async def close_gate(self) -> None:
        """End the connections of programs to the network."""
        if self._gate is not None:
            await self._gate.close()

    @property
    def is_busy(self) -> bool:
        """Whether a call waits for its answer, or a job runs."""
        return bool(self._receivers)

    def let_go(self) -> socket.socket:
        """The connection, for another client."""
        self._ended.set()
        return self.link.detach()

    async def see_ended(self, limit_s: float) -> bool:
        """Whether the other side closes the connection in time."""
        try:
            async with asyncio.timeout(limit_s):
                await self._ended.wait()
        except TimeoutError:
            return False
        return True
