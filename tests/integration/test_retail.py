"""The retail environment: on its demo shop, and on the recorded tasks of tau-bench where they are."""

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env as check_gymnasium_env
from support import ROOT, data_path, require, run_async

import palaestra.envs
from palaestra.envs import (
    AssistantMessage,
    Episode,
    Message,
    Outcome,
    Policy,
    Scored,
    ScriptedPolicy,
    StopReason,
    Task,
    TaskSet,
    ToolCall,
    ToolMessage,
    ToolSpec,
    Ungraded,
    call_tool,
    play,
)
from palaestra.envs.catalog.retail import Retail
from palaestra.envs.catalog.retail.files import read_recordings, read_specs
from palaestra.envs.catalog.retail.recording import Recording
from palaestra.envs.catalog.retail.tasks import load_shop, replay
from palaestra.envs.catalog.retail.tools import RetailTools
from palaestra.envs.check import check_env
from palaestra.envs.graders import grade_episode
from palaestra.envs.user import STOP

LIST = ROOT / "docs" / "envs" / "retail_recordings.csv"
SIZES = {"train": 500, "dev": 20}


def played(policy: Policy, task: Task, user: Policy | None = None) -> tuple[Episode, Outcome]:
    async def main() -> tuple[Episode, Outcome]:
        env = Retail(user=user)
        episode = await play(env, policy, task, seed=0)
        return episode, await grade_episode(env.grader, task, episode, reward_range=env.reward_range)

    return run_async(main())


def reward(policy: Policy, task: Task) -> float:
    _, outcome = played(policy, task)
    assert isinstance(outcome, Scored), outcome
    return outcome.reward


def folder() -> Path:
    require("data")
    return data_path("tau_bench", "retail")


def recorded(split: str = "train") -> TaskSet:
    return Retail.tasks(path=str(folder()), split=split, keep_idle=True)


def first(tasks: TaskSet, is_it: Callable[[Task], object]) -> Task:
    return next(task for task in tasks if is_it(task))


def writes(task: Task) -> bool:
    return bool(task.reference["actions"])


def without(calls: Sequence[Any], number: int, told: Sequence[str]) -> Policy:
    kept = [call for place, call in enumerate(calls) if place != number]
    lines = [call_tool(call["name"], **call["kwargs"]) for call in kept]
    return ScriptedPolicy([*lines, ". ".join(told)])


# The demo shop


def test_the_environment_passes_its_check_without_any_data() -> None:
    report = run_async(check_env(Retail, num_tasks=40))
    assert report.passed, report


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


# The recorded tasks


@pytest.mark.data
def test_the_tools_are_those_of_the_schemas() -> None:
    given = read_specs(folder())
    assert len(given) == 16
    for spec in given:
        assert plain(RetailTools.offered[spec.name].spec.parameters) == plain(spec.parameters), spec.name
    shown = played(ScriptedPolicy([]), recorded()[0])[0].tools
    assert shown == given


def plain(schema: Any) -> Any:
    """Without descriptions, which are our own, and with `required` also where it is empty."""
    if not isinstance(schema, dict):
        return schema
    fields = cast(dict[str, Any], schema)
    kept = {key: plain(value) for key, value in fields.items() if key == "type" or not isinstance(value, str)}
    return {"required": [], **kept} if kept.get("type") == "object" else kept


@pytest.mark.data
@pytest.mark.parametrize("split", ["train", "dev"])
def test_every_recording_replays_to_its_reference_and_the_list_says_which_are_flawed(split: str) -> None:
    tasks, recordings = recorded(split), read_recordings(folder(), split)
    assert len(tasks) == len(recordings) == SIZES[split]
    found: dict[str, list[str]] = {}
    for task, recording in zip(tasks, recordings, strict=True):
        assert reward(Retail.oracle(task), task) == 1.0, task.id
        flaws = sorted(flaws_of(task, recording))
        if flaws:
            found[task.id] = flaws
        assert reward(ScriptedPolicy([]), task) == float("no net change" in flaws), task.id
        if not flaws:
            assert_that_each_write_counts(task)
    assert found == {id: reasons for id, reasons in listed().items() if id.startswith(f"{split}-")}
    if split == "train":
        counts = [sum(reason in reasons for reasons in found.values()) for reason in REASONS]
        assert counts == [19, 5, 19]


REASONS = ("tool error", "no net change", "redundant write")


def flaws_of(task: Task, recording: Recording) -> set[str]:
    shop, actions = load_shop(task.private["shop"]), recording.actions
    whole = replay(shop, actions)
    shorter = [replay(shop, [*actions[:n], *actions[n + 1 :]]) for n in range(len(actions))]
    holds = (
        bool(whole.refusals),
        whole.state == replay(shop, ()).state,
        any(each.state == whole.state for each in shorter),
    )
    return {reason for reason, is_so in zip(REASONS, holds, strict=True) if is_so}


def assert_that_each_write_counts(task: Task) -> None:
    calls, told = task.reference["actions"], task.reference["outputs"]
    for number in range(len(calls)):
        assert reward(without(calls, number, told), task) == 0.0, (task.id, number)


def listed() -> dict[str, list[str]]:
    with LIST.open(newline="", encoding="utf-8") as file:
        return {row["id"]: row["reasons"].split("; ") for row in csv.DictReader(file)}


@pytest.mark.data
def test_tasks_that_doing_nothing_solves_are_left_out_unless_they_are_asked_for() -> None:
    path = str(folder())
    assert len(Retail.tasks(path=path)) == 495 and len(Retail.tasks(path=path, split="dev")) == 19
    report = run_async(check_env(Retail, num_tasks=100, task_options={"path": path}))
    assert report.passed, report


@pytest.mark.data
def test_the_policy_text_is_the_folders_and_can_be_replaced() -> None:
    path = str(folder())
    told = Retail.tasks(path=path)[0].messages[0].content
    assert told == (folder() / "wiki.md").read_text(encoding="utf-8").strip()
    assert Retail.tasks(path=path, rules="Be kind.")[0].messages[0].content == "Be kind."
    assert [message.role for message in Retail.tasks(path=path, rules="")[0].messages] == ["user"]
    train, held_out = Retail.tasks(path=path).split(100)
    assert len(train) + len(held_out) == 495


# What a folder may hold


def write_folder(path: Path, **files: Any) -> str:
    shop = load_shop("demo:0")
    whole = {
        "users.json": dict(shop.users),
        "products.json": dict(shop.products),
        "orders.json": dict(shop.orders),
        "tasks_train.json": [{"instruction": "You are Ada.", "actions": [], "outputs": ["7"]}],
        **files,
    }
    for name, content in whole.items():
        (path / name).write_text(json.dumps(content))
    (path / "wiki.md").write_text("Be kind.")
    return str(path)


def test_a_folder_without_tool_schemas_shows_our_own_words(tmp_path: Path) -> None:
    (task,) = Retail.tasks(path=write_folder(tmp_path))
    assert (task.id, task.tools, task.messages[0].content) == ("train-0", (), "Be kind.")
    episode, _ = played(ScriptedPolicy([]), task)
    assert [spec.name for spec in episode.tools] == list(RetailTools.offered)


MISFITS: list[tuple[dict[str, Any], list[str]]] = [
    ({"users.json": {"ada": {}}}, ["users.json", "ada.name", "Field required"]),
    ({"orders.json": []}, ["orders.json", "should be an object"]),
    ({"tasks_train.json": [{"instruction": 3}]}, ["tasks_train.json", "0.instruction"]),
    (
        {"tasks_train.json": [{"instruction": "", "actions": [{"name": "fly", "kwargs": {}}]}]},
        ["train-0", "there is no tool 'fly'"],
    ),
    (
        {"tasks_train.json": [{"instruction": "", "actions": [{"name": "think", "kwargs": {}}]}]},
        ["train-0", "think", "thought"],
    ),
    ({"tool_schemas.json": []}, ["tool_schemas.json", "calculate"]),
]


@pytest.mark.parametrize(("files", "words"), MISFITS)
def test_a_folder_that_does_not_fit_is_refused_with_the_place(
    tmp_path: Path, files: dict[str, Any], words: list[str]
) -> None:
    path = write_folder(tmp_path, **files)
    with pytest.raises(ValueError) as error:
        Retail.tasks(path=path)
    assert [word for word in words if word not in str(error.value)] == []


def test_a_split_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    path = write_folder(tmp_path)
    with pytest.raises(ValueError, match=r"no tasks_test\.json; the splits there are: train"):
        Retail.tasks(path=path, split="test")
