"""The echo template of `openenv init`, served by OpenEnv itself in a Python of its own."""

import subprocess
from collections.abc import Generator
from typing import Any

import pytest
from servers import free_port, serving
from support import peer_path, require, run_async

from palaestra.envs import (
    AssistantMessage,
    Episode,
    Policy,
    Scored,
    ScriptedPolicy,
    StopReason,
    ToolCall,
    ToolMessage,
    call_tool,
    play,
)
from palaestra.envs.adapters.openenv import OpenEnv
from palaestra.envs.graders import grade_episode

Server = tuple[str, "subprocess.Popen[bytes]"]


@pytest.fixture(scope="module")
def server() -> Generator[Server]:
    require("peers")
    port = free_port()
    command = [str(peer_path("openenv", "bin", "uvicorn")), "server.app:app", "--port", str(port)]
    with serving(command, port, cwd=peer_path("echo_env")) as process:
        yield f"http://127.0.0.1:{port}", process


def played(url: str, policy: Policy) -> Episode:
    (task,) = OpenEnv.tasks(url=url, size=1, instructions="Let it echo.")
    return run_async(play(OpenEnv(), policy, task, seed=0))


def test_an_episode_with_the_echo_template(server: Server) -> None:
    lines: list[AssistantMessage | str] = [
        call_tool("act", message="hello"),
        call_tool("act", text="?"),
        call_tool("no_such"),
        call_tool("act", message="bye"),
        "Done.",
    ]
    episode = played(server[0], ScriptedPolicy(lines))
    assert episode.stop is StopReason.DONE, episode.failure
    assert episode.rewards == pytest.approx((0.5, 0.0, 0.0, 0.3, 0.0))
    (spec,) = episode.tools
    assert spec.name == "act" and set(spec.parameters["properties"]) == {"message"}
    assert "Echo Env environment ready!" in episode.messages[1].content
    told = [said for said in episode.messages if isinstance(said, ToolMessage)]
    assert [said.is_error for said in told] == [False, True, True, False]
    assert '"echoed_message": "hello"' in told[0].content and "message" in told[1].content
    outcome = run_async(grade_episode(OpenEnv.grader, OpenEnv.tasks(url="x", size=1)[0], episode))
    assert isinstance(outcome, Scored) and outcome.reward == pytest.approx(0.8)


def test_calls_of_one_message_are_played_in_order(server: Server) -> None:
    calls = tuple(ToolCall(id=text, name="act", arguments={"message": text}) for text in ("a", "bb"))
    episode = played(server[0], ScriptedPolicy([AssistantMessage(tool_calls=calls)]))
    assert episode.rewards[0] == pytest.approx(0.3)
    assert [said.call_id for said in episode.messages if isinstance(said, ToolMessage)] == ["a", "bb"]


def test_a_full_server_and_a_dead_one_fail_the_episode(server: Server) -> None:
    url, process = server
    inner: list[Episode] = []

    class Nested:
        """Opens a second session while the first one is under way: the template allows one."""

        async def __call__(self, messages: Any, tools: Any) -> AssistantMessage:
            if not inner:
                (task,) = OpenEnv.tasks(url=url, size=1)
                inner.append(await play(OpenEnv(), ScriptedPolicy([]), task, seed=0))
                return call_tool("act", message="still here")
            process.kill()
            process.wait()
            return call_tool("act", message="gone")

    episode = played(url, Nested())
    assert inner[0].failure is not None and "CAPACITY_REACHED" in inner[0].failure.message
    assert inner[0].failure.retryable and inner[0].failure.stage == "reset"
    assert episode.rewards[0] == pytest.approx(1.0)
    assert episode.failure is not None and episode.failure.stage == "step" and episode.failure.retryable
    assert episode.failure.cause == "PeerLost"
    late = played(url, ScriptedPolicy([]))
    assert late.failure is not None and late.failure.stage == "reset" and late.failure.cause == "PeerLost"
