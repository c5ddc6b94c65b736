"""Tools of real MCP servers: over stdio, over HTTP, one from PyPI and one from npm."""

import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from servers import free_port, serving
from support import ROOT, peer_path, require, run_async

from palaestra.envs import (
    AssistantMessage,
    Episode,
    Failed,
    ScriptedPolicy,
    StopReason,
    Task,
    TaskSet,
    ToolMessage,
    UserMessage,
    call_tool,
    play,
    tool,
)
from palaestra.envs.adapters.mcp import McpEnv, McpServer
from palaestra.envs.check import check_env
from palaestra.envs.graders import Exact

pytest.importorskip("mcp", reason="needs the extra `mcp`")

SERVER = (sys.executable, str(ROOT / "tests" / "mcp_server.py"))
OWN = McpServer(command=SERVER)
TASK = Task(id="a", messages=(UserMessage("Try the tools."),))


def play_with(server: McpServer, *lines: AssistantMessage | str, limit_s: float = 30.0) -> Episode:
    class Tools(McpEnv[Task]):
        servers = (server,)
        call_timeout_s = limit_s

    return run_async(play(Tools(), ScriptedPolicy([*lines, "done"]), TASK, seed=0))


def answers(episode: Episode) -> list[tuple[str, bool]]:
    assert episode.failure is None, episode.failure
    return [(said.content, said.is_error) for said in episode.messages if isinstance(said, ToolMessage)]


def lost(episode: Episode) -> Failed:
    assert episode.stop is StopReason.FAILED and episode.failure is not None
    assert episode.failure.cause == "PeerLost"
    return episode.failure


@pytest.fixture
def http_server() -> Generator[tuple[McpServer, "subprocess.Popen[bytes]"]]:
    port = free_port()
    with serving([*SERVER, str(port)], port) as process:
        yield McpServer(url=f"http://127.0.0.1:{port}/mcp"), process


def test_a_session_lives_as_long_as_its_episode() -> None:
    lines = call_tool("note", text="a"), call_tool("note", text="b")
    episode, another = play_with(OWN, *lines), play_with(OWN, *lines)
    assert answers(episode) == answers(another) == [("1", False), ("2", False)]
    spec = next(spec for spec in episode.tools if spec.name == "note")
    assert spec.description.startswith("Keep a note") and spec.parameters["required"] == ["text"]


def test_errors_of_a_tool_are_observations() -> None:
    episode = play_with(
        OWN,
        call_tool("fail", why="no luck"),
        call_tool("note", txt="a"),
        call_tool("no_such"),
        call_tool("wait"),
        call_tool("note", text="still here"),
        limit_s=2.0,
    )
    failed, wrong, unknown, late, after = answers(episode)
    assert "no luck" in failed[0] and "text" in wrong[0] and "there is no tool 'no_such'" in unknown[0]
    assert late[0] == "wait was stopped: it took over 2 s"
    assert [is_error for _, is_error in (failed, wrong, unknown, late)] == [True] * 4
    assert after == ("1", False)


def test_a_server_that_dies_fails_the_episode() -> None:
    failure = lost(play_with(OWN, call_tool("die"), call_tool("note", text="a")))
    assert failure.stage == "step" and failure.retryable and "lost in a call of die" in failure.message


@pytest.mark.parametrize(
    ("command", "said", "is_weather"),
    [
        (("no-such-command-anywhere",), "FileNotFoundError", False),
        ((sys.executable, "-c", "raise SystemExit('no key')"), "it wrote: no key", True),
    ],
)
def test_a_server_that_does_not_start_fails_the_reset_and_says_why(
    command: tuple[str, ...], said: str, is_weather: bool
) -> None:
    failure = lost(play_with(McpServer(command=command)))
    assert failure.stage == "reset" and said in failure.message and failure.retryable is is_weather


def test_a_server_that_lists_no_tools_is_ended_with_its_episode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("palaestra.envs.adapters.mcp.START_S", 2.0)
    code = """
import json, sys
for line in sys.stdin:
    asked = json.loads(line)
    if asked.get("method") == "initialize":
        about = {"protocolVersion": asked["params"]["protocolVersion"], "capabilities": {"tools": {}},
                 "serverInfo": {"name": "silent", "version": "1"}}
        print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": about}), flush=True)
    elif "id" in asked and asked["method"] != "tools/list":
        no = {"code": -32601, "message": "no"}
        print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "error": no}), flush=True)
"""
    started = time.monotonic()
    failure = lost(play_with(McpServer(command=(sys.executable, "-c", code))))
    assert time.monotonic() - started < 20.0  # `play` waits 30 s for an env that does not close
    assert failure.stage == "reset" and "no answer within 2 s" in failure.message


def test_a_list_of_tools_without_an_end_is_cut_off_at_the_start_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("palaestra.envs.adapters.mcp.START_S", 2.0)
    code = """
import json, sys
for number, line in enumerate(sys.stdin):
    asked = json.loads(line)
    about = {"protocolVersion": asked.get("params", {}).get("protocolVersion"), "capabilities": {"tools": {}},
             "serverInfo": {"name": "talks", "version": "1"}}
    tool = {"name": f"tool{number}", "inputSchema": {"type": "object"}}
    page = {"tools": [tool], "nextCursor": str(number)}
    if "id" in asked:
        result = page if asked["method"] == "tools/list" else about
        print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": result}), flush=True)
"""
    started = time.monotonic()
    failure = lost(play_with(McpServer(command=(sys.executable, "-c", code))))
    assert time.monotonic() - started < 15.0
    assert failure.stage == "reset" and "list of tools did not end within 2 s, after" in failure.message


def test_a_server_sees_nothing_of_our_environment_but_what_it_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MY_API_KEY", "secret")
    server = McpServer(command=SERVER, env={"GIVEN": "1"})
    (names, _), *_ = answers(play_with(server, call_tool("environment")))
    assert "GIVEN" in names and "PATH" in names and "MY_API_KEY" not in names


def test_over_http(http_server: tuple[McpServer, "subprocess.Popen[bytes]"]) -> None:
    server, process = http_server
    episode = play_with(server, call_tool("note", text="a"), call_tool("fail", why="no luck"))
    assert [is_error for _, is_error in answers(episode)] == [False, True]
    assert lost(play_with(server, call_tool("die"))).retryable
    process.wait()
    assert lost(play_with(server)).stage == "reset"


def test_tools_of_an_env_stand_beside_those_of_its_servers() -> None:
    class Both(McpEnv[Task]):
        servers = (McpServer(command=SERVER, tools=("note",)),)

        @tool
        async def shout(self, text: str) -> str:
            """Write in capitals."""
            return text.upper()

    lines = [call_tool("shout", text="a"), call_tool("note", text="a"), call_tool("fail", why="x")]
    episode = run_async(play(Both(), ScriptedPolicy(lines), TASK, seed=0))
    assert [spec.name for spec in episode.tools] == ["shout", "note"]
    assert [content for content, _ in answers(episode)][:2] == ["A", "1"]
    assert "there is no tool 'fail'" in answers(episode)[2][0]
    assert list(Both.offered) == ["shout"]


def test_two_servers_with_one_name_are_refused() -> None:
    class Twice(McpEnv[Task]):
        servers = (OWN, OWN)

    episode = run_async(play(Twice(), ScriptedPolicy([]), TASK, seed=0))
    assert (
        episode.failure is not None and "name the wanted ones in McpServer.tools" in episode.failure.message
    )


def test_a_server_is_a_command_or_a_url() -> None:
    with pytest.raises(ValueError, match="give one of the two"):
        McpServer()
    with pytest.raises(ValueError, match="give one of the two"):
        McpServer(command=("a",), url="http://b")


class Hours(McpEnv[Task]):
    """How late is it somewhere else?"""

    grader = Exact(prefix="Answer:")
    servers = (McpServer(command=(str(Path(sys.executable).with_name("mcp-server-time")),)),)

    @classmethod
    def tasks(cls) -> TaskSet:
        asked = UserMessage("It is 12:00 in Tokyo. What time is it in UTC? Say Answer: HH:MM")
        return TaskSet([Task(id="tokyo", messages=(asked,), reference="03:00")])

    @classmethod
    def oracle(cls, task: Task) -> Any:
        call = call_tool("convert_time", source_timezone="Asia/Tokyo", time="12:00", target_timezone="UTC")
        return ScriptedPolicy([call, "Answer: 03:00"])


def test_the_time_server_of_pypi_passes_every_check() -> None:
    report = run_async(check_env(Hours))
    assert report.passed, report
    task = Hours.tasks()[0]
    episode = run_async(play(Hours(), Hours.oracle(task), task, seed=0))
    assert "T03:00:00+00:00" in answers(episode)[0][0]


def test_a_server_of_npm() -> None:
    require("peers")
    server = McpServer(
        command=("node", str(peer_path("npm", "node_modules", ".bin", "mcp-server-everything")))
    )
    lines = (call_tool("echo", message="hej"), call_tool("get-sum", a=1, b="x"), call_tool("get-tiny-image"))
    echoed, wrong, picture = answers(play_with(server, *lines))
    assert echoed == ("Echo: hej", False)
    assert wrong[1] and "expected number" in wrong[0]
    assert "[image: image/png, " in picture[0]
