"""Packages of verifiers 0.1.14, unmodified, in a Python of their own."""

import asyncio
import os
import signal
from typing import Any

import pytest
from support import ROOT, peer_path, require, run_async

from palaestra.envs import (
    AssistantMessage,
    Budget,
    Episode,
    Outcome,
    Policy,
    Scored,
    ScriptedPolicy,
    StopReason,
    Task,
    TaskSet,
    Ungraded,
    call_tool,
    play,
)
from palaestra.envs.adapters.errors import PeerLost
from palaestra.envs.adapters.peer import Peer
from palaestra.envs.adapters.verifiers import VerifiersEnv
from palaestra.envs.graders import grade_episode


@pytest.fixture(autouse=True)
def packages(monkeypatch: pytest.MonkeyPatch) -> None:
    require("peers")
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests" / "integration" / "vf_packages"))


@pytest.fixture(scope="module", autouse=True)
def no_process_is_left() -> Any:
    yield
    Peer.end_all()


def tasks(package: str, **options: Any) -> TaskSet:
    return VerifiersEnv.tasks(package=package, python=str(peer_path("verifiers", "bin", "python")), **options)


async def played(policy: Policy, task: Task, **limits: Any) -> tuple[Episode, Outcome]:
    env = VerifiersEnv()
    episode = await play(env, policy, task, seed=0, budget=Budget(**limits))
    return episode, await grade_episode(env.grader, task, episode)


def halving() -> Policy:
    """Finds any number from 0 to 15."""
    low, high = 0, 15

    def guess(conversation: Any) -> str:
        nonlocal low, high
        middle = (low + high) // 2
        match conversation[-1].content:
            case "higher":
                low = middle + 1
            case "lower":
                high = middle - 1
            case _:
                pass
        return str((low + high) // 2)

    return ScriptedPolicy([guess] * 8)


def test_a_package_of_several_turns() -> None:
    found = tasks("vf-guess", arguments={"num_rows": 3})
    assert [task.reference for task in found] == ["5", "6", "7"]
    assert [message.role for message in found[0].messages] == ["system", "user"]

    async def all_at_once() -> list[tuple[Episode, Outcome]]:
        return await asyncio.gather(*(played(halving(), task) for task in found))

    for task, (episode, outcome) in zip(found, run_async(all_at_once()), strict=True):
        assert episode.stop is StopReason.DONE and isinstance(outcome, Scored), outcome
        assert outcome.reward == 1.5 and outcome.components["found"] == 1.0
        assert outcome.components["num_turns"] == episode.num_turns
        assert episode.messages[:2] == task.messages and episode.answers[-1].content == task.reference


def test_the_rubric_scores_an_episode_that_our_budget_cut() -> None:
    (task,) = tasks("vf-guess", size=1)
    episode, outcome = run_async(played(ScriptedPolicy(["1", "2", "3"]), task, max_turns=2))
    assert episode.stop is StopReason.MAX_TURNS and [said.content for said in episode.answers] == ["1", "2"]
    assert isinstance(outcome, Scored) and outcome.reward == 0.5
    assert outcome.evidence == "stopped by prompt_too_long"


def test_a_reward_function_that_raises_is_no_number() -> None:
    """verifiers itself makes 0.0 of it. The episode beside it keeps its own."""
    found = tasks("vf-guess", size=2)

    async def both() -> list[tuple[Episode, Outcome]]:
        policies = ScriptedPolicy(["break", "5"]), ScriptedPolicy(["1", "6"])
        return await asyncio.gather(*map(played, policies, found))

    (_, broken), (_, fine) = run_async(both())
    assert isinstance(broken, Ungraded) and "the reward function broke" in broken.reason
    assert isinstance(fine, Scored) and fine.reward == 1.5


def test_tools_of_a_package() -> None:
    (task,) = tasks("vf-shop")
    lines = [
        call_tool("price", fruit="fig"),
        call_tool("price", fruit="crash"),
        call_tool("price", fruit="plum"),
    ]
    episode, outcome = run_async(played(ScriptedPolicy([*lines, "19"]), task))
    assert [spec.name for spec in episode.tools] == ["price"]
    assert [said.content for said in episode.messages if said.role == "tool"] == ["12", "no such shelf", "7"]
    assert isinstance(outcome, Scored) and outcome.reward == 1.0
    _, outcome = run_async(played(ScriptedPolicy([]), task))
    assert isinstance(outcome, Scored) and outcome.reward == 0.0


def test_a_package_that_is_killed_fails_its_episodes_and_starts_again() -> None:
    (task,) = tasks("vf-guess", size=1)
    peer = Peer.of(*task.private["command"])

    class Killing:
        async def __call__(self, messages: Any, tools: Any) -> AssistantMessage:
            os.kill(peer.pid, signal.SIGKILL)
            return AssistantMessage("1")

    episode, _ = run_async(played(Killing(), task))
    assert episode.failure is not None and episode.failure.cause == "PeerLost" and episode.failure.retryable
    _, outcome = run_async(played(halving(), task))
    assert isinstance(outcome, Scored) and outcome.reward == 1.5


def test_what_cannot_be_played_is_refused() -> None:
    with pytest.raises(PeerLost, match="scores whole groups"):
        tasks("vf-groups")
    with pytest.raises(PeerLost, match="Could not import 'vf-no-such'"):
        tasks("vf-no-such")
    with pytest.raises(PeerLost, match="no-such-python"):
        VerifiersEnv.tasks(package="vf-shop", python="no-such-python")
    with pytest.raises(ValueError, match="neither"):
        tasks("vf-shop", split="test")
