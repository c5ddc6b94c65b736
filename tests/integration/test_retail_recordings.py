"""The retail environment on tau-bench's recorded tasks, where they are, and on folders that do not fit."""

import csv
import json
from pathlib import Path
from typing import Any, cast

import pytest
from retail_plays import played, reward, without
from support import ROOT, data_path, require

from palaestra.envs import ScriptedPolicy, Task, TaskSet
from palaestra.envs.catalog.retail import Retail
from palaestra.envs.catalog.retail.files import read_recordings, read_specs
from palaestra.envs.catalog.retail.recording import Recording
from palaestra.envs.catalog.retail.tasks import load_shop, replay
from palaestra.envs.catalog.retail.tools import RetailTools

LIST = ROOT / "docs" / "envs" / "retail_recordings.csv"
SIZES = {"train": 500, "dev": 20}


def folder() -> Path:
    require("data")
    return data_path("tau_bench", "retail")


def recorded(split: str = "train") -> TaskSet:
    return Retail.tasks(path=str(folder()), split=split, keep_idle=True)


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
