"""The one way out of a sandbox: an HTTP proxy that runs in the driver, one call of `serve` a connection.

  program ── 127.0.0.1 in the sandbox ── control connection ── serve ── dial ── host
             (accepts, carries bytes)                          (decides)

Let through: TLS behind `CONNECT host:port` whose ClientHello names that host; plain HTTP, one request a
connection, whose URL, Host header and (in a CONNECT to port 80) tunnel name one host. The host must be on the
allow-list, and its name must stand for public addresses only, none of this machine's own; an address that the
list itself names is exempt. An address has no name, so TLS to one goes without a server name.

What is not protected: what follows the first ClientHello is not read, so a server of many names can be asked
for another one there. Data can leave by every allowed host, and by the names looked up below a "*." entry. A
machine whose public address is translated elsewhere can't tell that the address is its own.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Protocol

from ._proxy.addresses import Dial, Upstream, dial_public, is_own
from ._proxy.client_hello import ACCESS_DENIED, HANDSHAKE, read_client_hello
from ._proxy.intake import CHUNK, Intake, Source
from ._proxy.refused import Refused
from ._proxy.request import (
    Head,
    Locator,
    absolute_locator,
    connect_goal,
    copy_body,
    parse_head,
    require_host,
    rewritten,
)
from .allow import HTTP_PORT, Allow, Endpoint, is_address


class Reply(Protocol):
    """The way back to the client."""

    def write(self, data: bytes, /) -> object: ...

    async def drain(self) -> object:
        """Waits until more may be written. Raises `OSError` when the client is gone."""
        ...

    def close(self) -> object:
        """All was written; the client may still send. `serve` that returns without it says: reset."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """A request that the proxy ended by itself."""

    host: str
    """As far as it was understood; "" for a request without one."""
    port: int | None
    status: int
    """400 malformed, 403 not allowed, 408 too slow, 502 not reachable, 504 no answer in time."""
    reason: str
    """What the client was told."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """How much of the driver one connection may take."""

    head_bytes: int = 32 << 10
    """Of a request's first line and headers."""
    head_s: float = 10.0
    """From the connection to a whole head, and from there to a whole ClientHello."""
    dial_s: float = 15.0
    """For looking up the name and connecting."""
    idle_s: float = 120.0
    """Without a byte passed on in either direction."""
    linger_s: float = 2.0
    """For a refused client to read why, while what it sends is thrown away."""


async def serve(
    policy: Allow,
    client: Source,
    reply: Reply,
    *,
    dial: Dial = dial_public,
    on_refusal: Callable[[Refusal], None],
    limits: Limits | None = None,
) -> None:
    """One connection of a program, from its first byte to its end, when both sides are done or one is gone.

    Whatever the client does, nothing is raised for it; what `on_refusal` raises is.
    """
    visit = _Visit(policy, Intake(client), reply, dial, limits or Limits())
    try:
        await visit.run()
    except Refused as refused:
        on_refusal(visit.refusal(refused))
        with suppress(OSError):
            await visit.answer(refused)
    except OSError:
        return  # one side is gone, and with it whom to tell


class _Visit:
    """The state of one connection."""

    def __init__(self, policy: Allow, intake: Intake, reply: Reply, dial: Dial, limits: Limits) -> None:
        self._policy = policy
        self._intake, self._reply = intake, reply
        self._dial, self._limits = dial, limits
        self._goal: Endpoint | None = None
        self._is_tls = False
        self._is_answered = False
        """Whether bytes of the host have gone to the client: ours would be taken for its."""

    async def run(self) -> None:
        async with _within(self._limits.head_s, 408, "no whole request came in time"):
            if not await self._intake.peek():
                self._reply.close()
                return
            head = await self._read_head()
        if head.method == "CONNECT":
            await self._tunnel(self._permitted(connect_goal(head)))
            return
        locator = absolute_locator(head)
        async with self._connected(self._permitted(locator.goal)) as upstream:
            await self._exchange(head, locator, upstream)

    async def _read_head(self) -> Head:
        return parse_head(await self._intake.through(b"\r\n\r\n", self._limits.head_bytes))

    def _permitted(self, goal: Endpoint) -> Endpoint:
        self._goal = goal
        if not self._policy.permits(goal.host, goal.port):
            raise Refused(403, f"{goal} is not allowed; add '{goal}' to SandboxSpec.network")
        if self._policy.is_open and is_address(goal.host) and is_own(goal.host):
            raise Refused(403, f"{goal} is this machine's own: reach it by a list that names it")
        return goal

    async def _tunnel(self, goal: Endpoint) -> None:
        """A CONNECT: TLS to the host that it names, or plain HTTP for it on the port of plain HTTP."""
        async with self._connected(goal) as upstream:
            async with _within(self._limits.head_s, 408, "nothing came in time after CONNECT"):
                self._reply.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                await self._reply.drain()
                first = await self._intake.peek()
            if first == HANDSHAKE:
                await self._tunnel_tls(goal, upstream)
            elif first:
                await self._tunnel_plain(goal, upstream)
            else:
                self._reply.close()

    async def _tunnel_tls(self, goal: Endpoint, upstream: Upstream) -> None:
        self._is_tls = True
        async with _within(self._limits.head_s, 408, "no whole TLS ClientHello came in time"):
            hello = await read_client_hello(self._intake)
        name = hello.server_name
        is_same = is_address(goal.host) if name is None else name.lower() == goal.host
        if not is_same:
            raise Refused(403, f"CONNECT asks for {goal}, but TLS for {name!r:.100}; both must be one")
        await self._relay(upstream, self._send_all(hello.raw, upstream), needs_both=True)

    async def _tunnel_plain(self, goal: Endpoint, upstream: Upstream) -> None:
        if goal.port != HTTP_PORT:
            raise Refused(403, f"what goes to {goal} through CONNECT must be TLS, and it is not")
        async with _within(self._limits.head_s, 408, "no whole request came in time"):
            head = await self._read_head()
        if head.method == "CONNECT" or not head.target.startswith("/"):
            raise Refused(400, f"a request inside CONNECT asks for a path, not for {head.target!r:.100}")
        require_host(head, goal)
        await self._exchange(head, Locator(goal=goal, path=head.target), upstream)

    @asynccontextmanager
    async def _connected(self, goal: Endpoint) -> AsyncGenerator[Upstream, None]:
        """A connection to the host, on which all that was written has gone out when this ends well."""
        async with _within(self._limits.dial_s, 504, f"{goal} can't be reached in time"):
            try:
                reader, writer = await self._dial(goal.host, goal.port)
            except TimeoutError:
                raise
            except OSError as error:
                raise Refused(502, f"{goal} can't be reached: {error.strerror or error}") from None
        try:
            yield reader, writer
            writer.close()
            async with asyncio.timeout(self._limits.idle_s):
                await writer.wait_closed()
        finally:
            writer.transport.abort()

    async def _exchange(self, head: Head, locator: Locator, upstream: Upstream) -> None:
        """One plain request and its answer."""
        opening = rewritten(head, locator)
        sending = self._send_one(opening, head.body_length, upstream)
        await self._relay(upstream, sending, needs_both=False)

    async def _send_one(self, opening: bytes, body_length: int | None, upstream: Upstream) -> None:
        """One request. What follows it is thrown away: nobody has looked at where it wants to go."""
        await self._send(opening, upstream)
        await copy_body(self._intake, body_length, lambda data: self._send(data, upstream))
        while await self._intake.some():
            pass
        upstream[1].write_eof()

    async def _send_all(self, opening: bytes, upstream: Upstream) -> None:
        """Whatever comes, to the client's end."""
        await self._send(opening, upstream)
        while data := await self._intake.some():
            await self._send(data, upstream)
        upstream[1].write_eof()

    async def _relay(
        self, upstream: Upstream, sending: Coroutine[Any, Any, None], *, needs_both: bool
    ) -> None:
        """Both directions, to the end of the host's, or of both. The first error ends both."""
        try:
            async with asyncio.timeout(self._limits.idle_s) as self._clock, asyncio.TaskGroup() as group:
                sender = group.create_task(sending)
                await self._receive(upstream[0])
                if not needs_both:
                    sender.cancel()
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        except TimeoutError:
            if self._is_answered:
                raise
            raise Refused(504, "the host said nothing for too long") from None

    async def _send(self, data: bytes, upstream: Upstream) -> None:
        upstream[1].write(data)
        await upstream[1].drain()
        self._put_off()

    async def _receive(self, host: asyncio.StreamReader) -> None:
        while data := await self._heard(host):
            self._is_answered = True
            self._reply.write(data)
            await self._reply.drain()
            self._put_off()
        if not (self._is_answered or self._is_tls):
            raise Refused(502, "the host ended the connection without an answer")
        self._reply.close()

    async def _heard(self, host: asyncio.StreamReader) -> bytes:
        try:
            return await host.read(CHUNK)
        except OSError as error:
            raise Refused(502, f"the host broke the connection: {error.strerror or error}") from None

    def _put_off(self) -> None:
        """The end for idleness: something was passed on."""
        if not self._clock.expired():
            self._clock.reschedule(asyncio.get_running_loop().time() + self._limits.idle_s)

    def refusal(self, refused: Refused) -> Refusal:
        host, port = (self._goal.host, self._goal.port) if self._goal else ("", None)
        return Refusal(host=host, port=port, status=refused.status, reason=refused.reason)

    async def answer(self, refused: Refused) -> None:
        """Tell the client, unless it is in the middle of the host's answer: that one is cut off."""
        if self._is_answered or (self._is_tls and refused.status >= 500):
            return
        async with asyncio.timeout(self._limits.linger_s):
            self._reply.write(ACCESS_DENIED if self._is_tls else _response(refused))
            await self._reply.drain()
            self._reply.close()
            # A connection that is closed with unread bytes is reset, and the answer lost with it.
            while await self._intake.some():
                pass


@asynccontextmanager
async def _within(seconds: float, status: int, reason: str) -> AsyncGenerator[None, None]:
    """What is inside, or `Refused` when it takes longer."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise Refused(status, f"{reason} ({seconds:g} s)") from None


def _response(refused: Refused) -> bytes:
    """The reason is in the first line too: of an answer to CONNECT, many clients show nothing else."""
    lines = [
        f"HTTP/1.1 {refused.status} {HTTPStatus(refused.status).phrase}: {refused.reason}",
        "Content-Type: text/plain",
        f"Content-Length: {len(refused.reason) + 1}",
        "Connection: close",
        "",
        f"{refused.reason}\n",
    ]
    return "\r\n".join(lines).encode("ascii", "replace")
