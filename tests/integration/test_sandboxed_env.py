"""`SandboxToolEnv`: one lazy sandbox an episode, its files in the record, whatever the policy does to it."""

import asyncio
import json
from typing import ClassVar

import pytest
from support import run_async

from palaestra.envs import (
    AssistantMessage,
    Budget,
    Episode,
    SandboxToolEnv,
    ScriptedPolicy,
    StopReason,
    Task,
    ToolMessage,
    call_tool,
    play,
    tool,
    transcript,
)
from palaestra.envs.scripted import Line
from palaestra.sandboxes import SandboxSpec

TASK = Task(id="t")


class Shell(SandboxToolEnv[Task]):
    sandbox: ClassVar[SandboxSpec] = SandboxSpec(memory_mb=64, pids=16, disk_mb=8)
    max_workspace_bytes: ClassVar[int] = 1000

    @tool
    async def bash(self, command: str) -> str:
        return transcript(await self.run(["bash", "-c", command], timeout_s=0.5))

    @tool
    async def read(self, path: str) -> str:
        return (await (await self.box()).read(path)).decode(errors="replace")


def run(*commands: str, budget: Budget | None = None) -> Episode:
    lines: list[Line] = [*(call_tool("bash", command=command) for command in commands), "done"]
    return run_async(play(Shell(), ScriptedPolicy(lines), TASK, seed=0, budget=budget))


def seen(episode: Episode) -> list[str]:
    return [message.content for message in episode.messages if isinstance(message, ToolMessage)]


def test_files_stay_from_call_to_call_and_end_in_the_record() -> None:
    episode = run("mkdir -p a/b; printf hi > a/b/c; printf '\\xff' > z", "cat a/b/c")
    assert seen(episode) == ["", "hi"]
    assert episode.workspace is not None
    assert episode.workspace.files == (("a/b/c", b"hi"), ("z", b"\xff"))
    assert episode.env_info[0][0] == "sandbox"


def test_an_episode_without_a_call_opens_no_sandbox() -> None:
    episode = run()
    assert episode.env_info == () and episode.workspace is None


def test_parallel_calls_share_the_one_sandbox() -> None:
    async def main() -> list[str]:
        env = Shell()
        await env.reset(TASK, seed=0)
        calls = (call_tool("bash", command=f"echo {n} >> log").tool_calls[0] for n in range(4))
        await env.step(AssistantMessage(tool_calls=tuple(calls)))
        step = await env.step(call_tool("read", path="log"))
        await env.close()
        return sorted(step.observation.messages[0].content.split())

    assert run_async(main()) == ["0", "1", "2", "3"]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("echo out; echo err >&2; exit 3", "out\nerr\n[exit code 3]"),
        ("sleep 60", "[timeout]"),
        ("echo \0", "cannot hold a NUL"),
        ("printf '\\xff'", "\ufffd"),
    ],
)
def test_how_a_program_ends_is_told(command: str, said: str) -> None:
    assert said in seen(run(command))[0]


def test_half_of_a_surrogate_pair_that_a_tool_decoded_is_an_answer() -> None:
    class Decoding(SandboxToolEnv[Task]):
        @tool
        async def decode(self, text: str) -> str:
            return transcript(await self.run(["echo", json.loads(text)]))

    episode = run_async(
        play(Decoding(), ScriptedPolicy([call_tool("decode", text='"\\ud800"')]), TASK, seed=0)
    )
    assert "half of a surrogate pair" in seen(episode)[0] and episode.stop is StopReason.DONE


def test_a_refused_path_is_an_answer() -> None:
    episode = run_async(
        play(Shell(), ScriptedPolicy([call_tool("read", path="../../etc/passwd")]), TASK, seed=0)
    )
    answer = episode.messages[-2]
    assert isinstance(answer, ToolMessage) and answer.is_error and episode.stop is StopReason.DONE


@pytest.mark.parametrize(
    "mess",
    [
        "ln -s /etc/passwd link; mkfifo pipe; head -c 5000 /dev/zero > large",
        "for i in $(seq 1500); do : > f$i; done",
        "for i in $(seq 200); do mkdir d; cd d; done",
        "printf x > $(printf 'bad\\xffname')",
        "chmod 000 . ; mkdir e; chmod 000 e",
        "rm -rf ./* .[!.]*",
    ],
)
def test_no_mess_in_the_workspace_can_spoil_the_record(mess: str) -> None:
    episode = run(f"printf keep > keep; {mess}")
    assert episode.stop is StopReason.DONE and episode.failure is None
    assert episode.workspace is not None
    assert sum(len(data) for _, data in episode.workspace.files) <= 1000
    for path, _ in episode.workspace.files:
        path.encode()


def test_the_workspace_survives_a_step_that_was_cut() -> None:
    class Patient(Shell):
        @tool
        async def bash(self, command: str) -> str:
            return transcript(await self.run(["bash", "-c", command], timeout_s=60))

    lines = [call_tool("bash", command="echo a > a; sleep 60")]
    episode = run_async(play(Patient(), ScriptedPolicy(lines), TASK, seed=0, budget=Budget(env_s=1.0)))
    assert episode.stop is StopReason.ENV_SECONDS and episode.failure is None
    assert episode.workspace is not None and episode.workspace.files == (("a", b"a\n"),)


def test_many_episodes_at_once() -> None:
    async def main() -> list[Episode]:
        lines = [call_tool("bash", command="echo $((6 * 7))")]
        return await asyncio.gather(*(play(Shell(), ScriptedPolicy(lines), TASK, seed=n) for n in range(32)))

    assert all(seen(episode) == ["42\n"] for episode in run_async(main()))
