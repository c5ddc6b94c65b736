"""The loop: every way to stop, and who pays for the time."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from rooms import TASK, Room, forever, run, says
from support import run_async

from palaestra.envs import (
    AssistantMessage,
    Budget,
    Message,
    OutOfBudget,
    Policy,
    StopReason,
    ToolSpec,
    Workspace,
    play,
)
from palaestra.envs.message import Usage


def spending(prompt: int, sampled: int) -> AssistantMessage:
    return AssistantMessage("more", usage=Usage(prompt_tokens=prompt, sampled_tokens=sampled))


async def out_of_context(messages: Sequence[Message], tools: Sequence[ToolSpec]) -> AssistantMessage:
    raise OutOfBudget(StopReason.CONTEXT)


async def then_out_of_context(messages: Sequence[Message], tools: Sequence[ToolSpec]) -> AssistantMessage:
    if len(messages) > len(TASK.messages):
        raise OutOfBudget(StopReason.CONTEXT)
    return AssistantMessage("on")


async def never_answers(messages: Sequence[Message], tools: Sequence[ToolSpec]) -> AssistantMessage:
    await forever()
    raise AssertionError


def test_an_episode_records_what_was_said_and_earned() -> None:
    env, seen = Room(), list[Message]()
    episode = run_async(play(env, says("one", "end"), TASK, seed=7, on_message=seen.append))
    assert [message.content for message in episode.messages] == [
        "be brief",
        "go",
        "one",
        "heard one",
        "end",
        "heard end",
    ]
    assert tuple(seen) == episode.messages
    assert (episode.task_id, episode.seed, episode.stop, episode.num_turns) == ("t", 7, StopReason.DONE, 2)
    assert episode.rewards == (0.25, 0.25)
    assert episode.workspace == Workspace(files=(("a", b"\xff"),))
    assert episode.env_info == (("tier", "none"),)
    assert episode.failure is None and env.num_closed == 1


@pytest.mark.parametrize(
    ("policy", "limits", "stop", "num_turns"),
    [
        (says("end"), {}, StopReason.DONE, 1),
        (says("on", "cut"), {}, StopReason.TRUNCATED, 2),
        (says(), {"max_turns": 3}, StopReason.MAX_TURNS, 3),
        (says(spending(5, 4), spending(9, 6), "end"), {"max_tokens": 10}, StopReason.MAX_TOKENS, 2),
        (says(spending(5, 4), spending(9, 6), "end"), {"max_context": 15}, StopReason.CONTEXT, 2),
        (says(spending(5, 4), spending(9, 5), "end"), {"max_context": 15}, StopReason.DONE, 3),
        (then_out_of_context, {}, StopReason.CONTEXT, 1),
    ],
)
def test_every_limit_has_a_stop_reason_of_its_own(
    policy: Policy, limits: dict[str, Any], stop: StopReason, num_turns: int
) -> None:
    env = Room()
    episode = run(env, policy, **limits)
    assert (episode.stop, episode.num_turns, len(episode.rewards)) == (stop, num_turns, num_turns)
    assert episode.workspace is not None and env.num_closed == 1


@pytest.mark.parametrize("limit", ["max_turns", "max_tokens", "max_context", "env_s", "wall_s"])
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_a_limit_that_lets_nobody_play_is_refused(limit: str, value: float) -> None:
    limits: dict[str, Any] = {limit: value}
    with pytest.raises(ValueError, match=f"{limit}={value} lets nobody play; give more than 0, or None"):
        Budget(**limits)


def test_a_context_without_room_for_an_answer_is_no_grade_of_the_policy() -> None:
    env = Room()
    episode = run(env, out_of_context)
    assert episode.stop is StopReason.FAILED and episode.failure is not None
    assert (episode.failure.stage, episode.failure.cause) == ("policy", "context")
    assert not episode.failure.retryable and "'t' left no room" in episode.failure.message
    assert env.num_closed == 1


def test_the_environments_own_budget_holds_where_the_caller_sets_none() -> None:
    class Short(Room):
        budget = Budget(max_turns=2)

    assert run(Short(), says()).num_turns == 2
    assert run(Short(), says(), max_turns=3).num_turns == 3


def test_a_hanging_step_is_cut_when_the_env_seconds_are_used_up() -> None:
    env = Room(step=forever)
    episode = run(env, says("on"), env_s=0.02)
    assert episode.stop is StopReason.ENV_SECONDS and episode.rewards == (0.0,)
    assert episode.workspace is not None and env.num_closed == 1


def test_waiting_for_the_model_is_not_charged_to_env_seconds() -> None:
    async def slow(messages: Sequence[Message], tools: Sequence[ToolSpec]) -> AssistantMessage:
        await asyncio.sleep(0.2)
        return AssistantMessage("end")

    episode = run(Room(), slow, env_s=0.15)
    assert episode.stop is StopReason.DONE
    assert episode.timing.policy_s > 0.15 > episode.timing.env_s


def test_a_wall_limit_in_the_environment_is_the_episodes_own() -> None:
    episode = run(Room(step=forever), says("on"), wall_s=0.02)
    assert episode.stop is StopReason.WALL and episode.failure is None
    assert episode.workspace is not None


def test_a_wall_limit_under_a_slow_policy_is_a_failure_to_retry() -> None:
    env = Room()
    episode = run(env, never_answers, wall_s=0.02)
    assert episode.failure is not None
    assert (episode.failure.stage, episode.failure.cause, episode.failure.retryable) == (
        "policy",
        "wall",
        True,
    )
    assert "wall_s=0.02 ran out" in episode.failure.message and env.num_closed == 1


def test_a_wall_limit_in_reset_is_a_failure_since_no_policy_was_there() -> None:
    episode = run(Room(reset=forever), says(), wall_s=0.02)
    assert episode.failure is not None and episode.failure.stage == "reset"


def test_slow_steps_do_not_turn_a_wall_limit_under_the_policy_into_a_discarded_episode() -> None:
    async def nap() -> None:
        await asyncio.sleep(0.08)

    async def then_silence(messages: Sequence[Message], tools: Sequence[ToolSpec]) -> AssistantMessage:
        if len(messages) > 2:
            await forever()
        return AssistantMessage("on")

    episode = run(Room(step=nap), then_silence, wall_s=0.1)
    assert episode.stop is StopReason.WALL


def test_only_the_opening_reaches_the_policy() -> None:
    seen: list[object] = []

    async def curious(messages: Sequence[Message], tools: Sequence[ToolSpec]) -> AssistantMessage:
        seen.extend([*messages, *tools])
        return AssistantMessage("end")

    run(Room(), curious)
    for secret in ("the-reference", "the-private-value", "the-metadata"):
        assert secret not in repr(seen)
