"""Tools of MCP servers, over stdio or streamable HTTP. Comes with the extra `mcp`.

class Clock(McpEnv[Task]):
    servers = (McpServer(command=("mcp-server-time",)),)
"""

import asyncio
import contextlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, ClassVar, TextIO, cast

from ..env import Observation, TaskT
from ..errors import ToolError
from ..message import ToolCall, ToolSpec
from ..tools import Offered, ToolEnv
from .errors import PeerLost

START_S = 30.0
"""Seconds for a server to start and to list its tools."""
STOP_S = 5.0
"""Seconds for a session to end in good manners; over them it is cut off."""
PROBE_S = 5.0
"""Seconds for a server that answered with an error to show that it lives."""


@dataclass(frozen=True, kw_only=True, slots=True)
class McpServer:
    """Where a server is: a command to start, or the URL of one that runs.

    The command is the author's, not the policy's: it runs beside the trainer, outside any sandbox.
    """

    command: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    """What the command gets beside PATH, HOME and the like; nothing else of our environment enters."""
    cwd: str | None = None
    url: str = ""
    """Streamable HTTP, such as "http://127.0.0.1:8000/mcp"."""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    tools: tuple[str, ...] | None = None
    """The tools to offer; None: all."""

    def __post_init__(self) -> None:
        if bool(self.command) == bool(self.url):
            raise ValueError(
                f"McpServer(command={self.command!r}, url={self.url!r}): give one of the two, "
                "a command to start or the URL of a running server"
            )

    def __str__(self) -> str:
        return self.url or " ".join(self.command)


class McpEnv(ToolEnv[TaskT]):
    """A `ToolEnv` that also offers the tools of MCP servers, one session an episode.

    A tool's own errors are observations; a server that does not start or is gone fails the episode.
    """

    servers: ClassVar[tuple[McpServer, ...]] = ()
    call_timeout_s: ClassVar[float | None] = 60.0
    """Seconds of one call; over them the policy reads that it was stopped."""

    def __init__(self) -> None:
        self._sessions: list[_Session] = []
        self._found: dict[str, _McpTool] = {}

    def servers_for(self, task: TaskT) -> Sequence[McpServer]:
        """The servers of a task's episode, where they differ from task to task."""
        return self.servers

    def on_offer(self) -> Mapping[str, Offered]:
        """The tools of the class, and those of the servers."""
        return {**self.offered, **self._found}

    async def reset(self, task: TaskT, *, seed: int) -> Observation:
        """Start the sessions, then show the task's messages and offer all tools."""
        self._sessions = [_Session(server) for server in self.servers_for(task)]
        # return_exceptions: every session has settled before one that failed is told of.
        opened = await asyncio.gather(*(each.open() for each in self._sessions), return_exceptions=True)
        for session, specs in zip(self._sessions, opened, strict=True):
            if isinstance(specs, BaseException):
                raise specs
            for spec in specs:
                if spec.name in self.on_offer():
                    raise ValueError(
                        f"{session.server} offers a tool {spec.name!r}, and so does another; "
                        "name the wanted ones in McpServer.tools"
                    )
                self._found[spec.name] = _McpTool(spec, session, self.call_timeout_s)
        return await super().reset(task, seed=seed)

    async def close(self) -> None:
        """End the sessions and the servers that were started for them."""
        await asyncio.gather(*(session.close() for session in self._sessions))


@dataclass(frozen=True, slots=True)
class _McpTool:
    spec: ToolSpec
    session: "_Session"
    timeout_s: float | None

    async def run(self, env: Any, call: ToolCall) -> str:
        limit = asyncio.timeout(self.timeout_s)
        try:
            async with limit:
                return await self.session.call(call.name, call.arguments)
        except TimeoutError:
            if not limit.expired():
                raise
            raise ToolError(f"{call.name} was stopped: it took over {self.timeout_s:g} s") from None


class _Session:
    """One connection, held open by a task of its own.

    The SDK's scopes must be left in the task that entered them, and cancel it when a connection breaks: that
    must be neither the episode's task nor the policy's turn.
    """

    def __init__(self, server: McpServer) -> None:
        self.server = server
        self._mcp: Any = None
        self._client: Any = None
        self._keeper: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()
        self._is_ready = False
        self._num_pages = 0

    async def open(self) -> list[ToolSpec]:
        """Connect; the tools on offer."""
        self._mcp = import_module("mcp")
        ready: asyncio.Future[list[ToolSpec]] = asyncio.get_running_loop().create_future()
        with tempfile.TemporaryFile("w+", errors="replace") as log:
            self._keeper = asyncio.create_task(self._keep(ready, log))
            either: set[asyncio.Future[Any]] = {ready, self._keeper}
            await asyncio.wait(either, timeout=START_S, return_when=asyncio.FIRST_COMPLETED)
            if ready.done():
                return ready.result()
            error = _innermost(self._keeper)
            why = self._silence() if error is None else f"{type(error).__name__}: {error}"
            self._keeper.cancel()
            is_weather = not isinstance(error, FileNotFoundError | PermissionError | ValueError)
            raise PeerLost(f"MCP server {self.server}: {why}{_tail(log)}", is_retryable=is_weather)

    def _silence(self) -> str:
        """Why there is no session yet."""
        if not self._num_pages:
            return f"no answer within {START_S:g} s"
        return f"its list of tools did not end within {START_S:g} s, after {self._num_pages} pages"

    async def _keep(self, ready: "asyncio.Future[list[ToolSpec]]", log: TextIO) -> None:
        async with contextlib.AsyncExitStack() as stack:
            transport = await self._transport(stack, log)
            self._client = await stack.enter_async_context(self._mcp.Client(transport))
            found = await self._list()
            self._is_ready = True
            ready.set_result(found)
            await self._stop.wait()

    async def _transport(self, stack: contextlib.AsyncExitStack, log: TextIO) -> Any:
        if self.server.command:
            program, *args = self.server.command
            how = self._mcp.StdioServerParameters(
                command=program, args=args, env=dict(self.server.env), cwd=self.server.cwd
            )
            return import_module("mcp.client.stdio").stdio_client(how, errlog=log)
        module = import_module("mcp.client.streamable_http")
        client = module.create_mcp_http_client(headers=dict(self.server.headers))
        await stack.enter_async_context(client)
        return module.streamable_http_client(self.server.url, http_client=client)

    async def _list(self) -> list[ToolSpec]:
        """The wanted tools, over all pages."""
        found: list[Any] = []
        page = await self._client.list_tools()
        found += page.tools
        while page.next_cursor:
            self._num_pages += 1
            page = await self._client.list_tools(cursor=page.next_cursor)
            found += page.tools
        specs = {
            tool.name: ToolSpec(
                name=tool.name, description=tool.description or "", parameters=tool.input_schema
            )
            for tool in found
        }
        wanted = list(specs) if self.server.tools is None else self.server.tools
        for name in wanted:
            if name not in specs:
                raise ValueError(f"there is no tool {name!r}; it offers: {', '.join(specs)}")
        return [specs[name] for name in wanted]

    async def call(self, name: str, arguments: Mapping[str, Any]) -> str:
        """The tool's answer as text. `ToolError` where the tool or the server objects, `PeerLost` where the
        server is gone."""
        if self._keeper is None or self._keeper.done():
            raise PeerLost(f"MCP server {self.server}: lost before a call of {name}")
        try:
            result = await self._client.call_tool(name, dict(arguments))
        except self._mcp.MCPError as error:
            if not await self._is_alive():
                raise PeerLost(f"MCP server {self.server}: lost in a call of {name}: {error}") from error
            raise ToolError(str(error)) from error
        text = "\n".join(map(_text, result.content))
        if result.is_error:
            raise ToolError(text or f"{name} failed and did not say why")
        return text

    async def _is_alive(self) -> bool:
        try:
            async with asyncio.timeout(PROBE_S):
                await self._client.session.list_tools()
        except (self._mcp.MCPError, TimeoutError):
            return False
        return True

    async def close(self) -> None:
        """End the session. A connection that had broken ends without a word: the calls have told of it."""
        if self._keeper is None:
            return
        self._stop.set()
        if self._is_ready:
            await asyncio.wait({self._keeper}, timeout=STOP_S)
        self._keeper.cancel()  # no news to one that has ended
        await asyncio.wait({self._keeper})
        _innermost(self._keeper)  # looked at, or asyncio would complain of it


def _text(part: Any) -> str:
    """A part of an answer as the policy reads it; pictures and sounds are named, not shown.

    >>> _text(TextContent(text="noon"))
    'noon'
    """
    match part.type:
        case "text":
            return str(part.text)
        case "resource" if hasattr(part.resource, "text"):
            return str(part.resource.text)
        case "resource":
            return f"[{part.resource.mime_type or 'data'}: {part.resource.uri}]"
        case "resource_link":
            return f"[{part.name}: {part.uri}]"
        case _:
            return f"[{part.type}: {part.mime_type}, {len(part.data) * 3 // 4} bytes]"


def _innermost(task: "asyncio.Task[None]") -> BaseException | None:
    """What ended a task, out of the groups that the SDK wraps it in; None for one that runs or was ended."""
    if not task.done() or task.cancelled():
        return None
    error = task.exception()
    while isinstance(error, BaseExceptionGroup):
        error = cast(BaseExceptionGroup[BaseException], error).exceptions[0]
    return error


def _tail(log: TextIO) -> str:
    """The end of what a server wrote to its standard error: mostly why it did not start."""
    log.seek(0)
    text = log.read()[-500:].strip()
    return f"; it wrote: {text}" if text else ""
