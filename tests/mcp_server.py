"""An MCP server for tests: `python mcp_server.py`, or `python mcp_server.py PORT` for streamable HTTP."""

import asyncio
import os
import sys

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError

server = MCPServer("palaestra-tests")
notes: list[str] = []


@server.tool()
def note(text: str) -> int:
    """Keep a note; the number of notes so far in this server."""
    notes.append(text)
    return len(notes)


@server.tool()
def fail(why: str) -> str:
    """Fail, and say why."""
    raise ToolError(why)


@server.tool()
def die() -> str:
    """End the server."""
    os._exit(3)


@server.tool()
async def wait() -> str:
    """Never answer."""
    return await asyncio.Future[str]()


@server.tool()
def environment() -> list[str]:
    """The names of the environment variables."""
    return sorted(os.environ)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        server.run("streamable-http", host="127.0.0.1", port=int(sys.argv[1]))
    else:
        server.run()
