"""The retail environment on its demo shop, and the user that it simulates."""

from collections.abc import Sequence
from dataclasses import replace

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env as check_gymnasium_env
from retail_plays import first, played, reward, without, writes
from support import run_async

import palaestra.envs
from palaestra.envs import (
    AssistantMessage,
    Message,
    Scored,
    ScriptedPolicy,
    StopReason,
    ToolCall,
    ToolMessage,
    ToolSpec,
    Ungraded,
    call_tool,
)
from palaestra.envs.catalog.retail import Retail
from palaestra.envs.catalog.retail.tasks import load_shop
from palaestra.envs.graders import grade_episode
from palaestra.envs.user import STOP


def test_gymnasium_finds_it_and_is_content() -> None:
    assert "retail" in palaestra.envs.env_names()
    env = gymnasium.make("palaestra/retail-v0", size=10)
    try:
        check_gymnasium_env(env.unwrapped)
    finally:
        env.close()


def test_on_200_demo_tasks_the_oracle_earns_1_doing_nothing_0_and_every_dropped_write_costs_it() -> None:
    tasks = Retail.tasks(size=200)
    assert len(tasks) == len({task.prompt_text for task in tasks}) == 200
    for task in tasks:
        calls, told = task.reference["actions"], task.reference["outputs"]
        assert reward(Retail.oracle(task), task) == 1.0, task
        assert reward(ScriptedPolicy([]), task) == 0.0, task
        for number in range(len(calls)):
            assert reward(without(calls, number, told), task) == 0.0, (task, number)


def test_the_demo_shop_follows_its_seed() -> None:
    assert list(Retail.tasks(size=5, seed=1)) == list(Retail.tasks(size=5, seed=1))
    assert {task.prompt_text for task in Retail.tasks(size=5, seed=1)}.isdisjoint(
        task.prompt_text for task in Retail.tasks(size=5, seed=2)
    )


def test_a_wrong_write_beside_the_right_ones_costs_the_reward() -> None:
    task = first(Retail.tasks(), writes)
    user_id = next(iter(load_shop(task.private["shop"]).users))
    address = dict.fromkeys(("address1", "address2", "city", "state", "country", "zip"), "x")
    calls = [call_tool(call["name"], **call["kwargs"]) for call in task.reference["actions"]]
    wrong = call_tool("modify_user_address", user_id=user_id, **address)
    told = ". ".join(task.reference["outputs"])
    assert reward(ScriptedPolicy([*calls, wrong, told]), task) == 0.0
    assert reward(ScriptedPolicy([*calls, told]), task) == 1.0


@pytest.mark.parametrize(
    ("say", "earned"),
    [
        ("You paid {}.", 1.0),
        ("${}!", 1.0),
        ("About 7.", 0.0),
        ("1{}", 0.0),
        ("{}1", 0.0),
        ("{}.5", 0.0),
        ("1.{}", 0.0),
    ],
)
def test_what_the_user_asked_for_must_be_told_as_it_is(say: str, earned: float) -> None:
    task = first(Retail.tasks(), lambda task: len(task.reference["outputs"]) == 1 and not writes(task))
    (told,) = task.reference["outputs"]
    episode, outcome = played(ScriptedPolicy([say.format(told)]), task)
    assert isinstance(outcome, Scored) and outcome.reward == earned
    assert outcome.components == {"database": 1.0, "outputs": earned}
    assert episode.stop is StopReason.DONE


def test_words_beside_a_call_do_not_reach_the_user_and_tell_nothing() -> None:
    task = first(Retail.tasks(), lambda task: task.reference["outputs"] and not writes(task))
    call = call_tool("list_all_product_types").tool_calls
    said = AssistantMessage(". ".join(task.reference["outputs"]), tool_calls=call)
    assert reward(ScriptedPolicy([said, "Bye."]), task) == 0.0
    assert reward(ScriptedPolicy([said, said.content]), task) == 1.0


def test_calls_of_one_message_take_effect_in_their_order() -> None:
    task = first(Retail.tasks(size=200), lambda task: len(task.reference["actions"]) == 2)
    calls = tuple(
        ToolCall(id=f"c{number}", name=call["name"], arguments=call["kwargs"])
        for number, call in enumerate(task.reference["actions"])
    )
    told = ". ".join(task.reference["outputs"])
    assert reward(ScriptedPolicy([AssistantMessage(tool_calls=calls), told]), task) == 1.0


def test_a_transfer_ends_the_conversation() -> None:
    transfer = call_tool("transfer_to_human_agents", summary="cannot help")
    episode, outcome = played(ScriptedPolicy([transfer, "hello?"]), Retail.tasks()[0])
    assert (episode.stop, episode.num_turns) == (StopReason.DONE, 1)
    assert isinstance(outcome, Scored) and outcome.reward == 0.0


def test_an_agent_that_never_ends_runs_out_of_turns_and_is_graded() -> None:
    task = first(Retail.tasks(), writes)
    episode, outcome = played(ScriptedPolicy(["Shall I?"] * 50), task)
    assert (episode.stop, episode.num_turns) == (StopReason.MAX_TURNS, 30)
    assert isinstance(outcome, Scored) and outcome.reward == 0.0
    assert dict(episode.env_info) == {"user_turns": "30"}


def test_without_the_workspace_there_is_no_grade() -> None:
    task = Retail.tasks()[0]
    episode, _ = played(Retail.oracle(task), task)
    outcome = run_async(grade_episode(Retail.grader, task, replace(episode, workspace=None)))
    assert isinstance(outcome, Ungraded) and "changes.json" in outcome.reason


# The simulated user


class Hearing:
    """A user that says its lines and keeps what it was shown."""

    def __init__(self, *lines: str) -> None:
        self.policy, self.shown = ScriptedPolicy(lines), list[Sequence[Message]]()

    async def __call__(self, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> AssistantMessage:
        self.shown.append(messages)
        return await self.policy(messages, tools)


def test_a_simulated_user_has_the_notes_and_the_agent_only_its_words() -> None:
    task = first(Retail.tasks(), writes)
    user = Hearing("Hello, I have a wish.", "Please do.", STOP)
    calls = [call_tool(call["name"], **call["kwargs"]) for call in task.reference["actions"]]
    told = ". ".join(["Done", *task.reference["outputs"]])
    episode, outcome = played(ScriptedPolicy(["Shall I?", *calls, told]), task, user)
    assert isinstance(outcome, Scored) and outcome.reward == 1.0
    heard = [message.content for message in episode.messages if message.role == "user"]
    assert heard == ["Hello, I have a wish.", "Please do."]
    assert task.private["notes"] not in "".join(message.content for message in episode.messages)
    assert task.private["notes"] in user.shown[0][0].content
    tool_words = [m.content for m in episode.messages if isinstance(m, ToolMessage)]
    assert not any(
        word in message.content for shown in user.shown for message in shown for word in tool_words
    )


def test_a_user_that_leaves_before_it_has_spoken_is_a_fault_of_the_simulator() -> None:
    task = first(Retail.tasks(), writes)
    episode, outcome = played(Retail.oracle(task), task, Hearing(STOP))
    assert episode.failure is not None and episode.failure.retryable
    assert not isinstance(outcome, Scored)
