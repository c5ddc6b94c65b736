"""A run in which everything fails a tenth of the time: it ends, and accounts for every fault by its id."""

import asyncio
import json
import shutil
from collections import Counter
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from trained_envs import Shaky
from trainings import TINY_RECIPE, timeless

from palaestra.agents.faults import FaultyEngine
from palaestra.agents.ledger import Ledger
from palaestra.agents.trajectory import Trajectory
from palaestra.envs import Failed, Scored, ToolMessage, Ungraded
from palaestra.envs.faults import Fault, Faults
from palaestra.trainer.advantages import Graded, load_advantage
from palaestra.trainer.recipe import Recipe
from palaestra.trainer.reporting.progress import Silent
from palaestra.trainer.reporting.summary import Summary
from palaestra.trainer.run import train

RATE = 0.1


def steps_of(ledger: Ledger) -> list[dict[str, Any]]:
    """What each step was trained on, and its figures."""
    records = [record for number in ledger.step_numbers() if (record := ledger.step(number))]
    return [record | {"metrics": timeless(record["metrics"])} for record in records]


def test_a_step_that_was_trained_on_keeps_its_failures_and_an_evaluation_gets_new_tries(
    tmp_path: Path,
) -> None:
    faults = Faults(seed=2, rates={Fault.ENGINE_ERROR: 0.4})
    fields: dict[str, Any] = json.loads(json.dumps(TINY_RECIPE))
    fields["runs_dir"] = tmp_path
    fields["grpo"] |= {"steps": 2, "group_size": 4, "max_attempts": 1}
    fields["checkpoint"] = {"every": 1, "keep": 3}
    recipe = Recipe.model_validate(fields)
    first = asyncio.run(train(recipe, Silent(), wrap_engine=lambda engine: FaultyEngine(engine, faults)))
    with Ledger(recipe.folder, read_only=True) as ledger:
        before = steps_of(ledger)
    assert first.train["failed"] and first.evaluations["warm-start"].outcomes["failed"]

    for step in (1, 2):  # as after a kill in the first checkpoint
        shutil.rmtree(recipe.folder / "checkpoints" / f"step-{step:06d}")
    again = asyncio.run(train(recipe, Silent(), resume=True))
    assert again.train == first.train
    with Ledger(recipe.folder, read_only=True) as ledger:
        assert steps_of(ledger) == before
    assert again.evaluations["warm-start"].outcomes == {"scored": 4}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Recipe, Summary, Faults]:
    """A whole training run under a tenth of every fault."""
    faults = Faults(seed=1, rates=dict.fromkeys(Fault, RATE))
    monkeypatch.setattr(Shaky, "faults", faults, raising=False)
    fields: dict[str, Any] = json.loads(json.dumps(TINY_RECIPE))
    fields |= {"runs_dir": tmp_path, "deterministic": False}
    fields["env"] |= {"id": "trained_envs:Shaky", "grader_timeout_s": 0.05}
    fields["grpo"] |= {"tasks_per_step": 4, "group_size": 6, "retry_s": 0.0}
    recipe = Recipe.model_validate(fields)
    summary = asyncio.run(train(recipe, Silent(), wrap_engine=lambda engine: FaultyEngine(engine, faults)))
    return recipe, summary, faults


def where(trajectory: Trajectory, fault: str) -> list[str]:
    """The places of an episode's record that name a fault."""
    found = list[str]()
    match trajectory.outcome:
        case Failed(message=message) if fault in message:
            found.append("failed")
        case Ungraded(reason=reason) if fault in reason:
            found.append("ungraded")
        case _:
            pass
    answers = [each for each in trajectory.episode.messages if isinstance(each, ToolMessage)]
    return found + ["observation" for answer in answers if fault in answer.content]


def test_each_fault_is_in_the_run_file_once_and_in_no_number(
    run: tuple[Recipe, Summary, Faults],
) -> None:
    recipe, summary, faults = run
    with Ledger(recipe.folder, read_only=True) as ledger:
        episodes = [each for split in ledger.splits() for each in ledger.trajectories(split)]
        steps = [record for number in ledger.step_numbers() if (record := ledger.step(number))]

    places = {fault: [place for each in episodes for place in where(each, fault)] for fault in faults.log}
    kinds = {Fault.TOOL_HANG: "observation", Fault.GRADER_STALL: "ungraded"}
    expected = {fault: [kinds.get(Fault(fault.rpartition("-")[0]), "failed")] for fault in faults.log}
    assert places == expected
    assert {Fault(fault.rpartition("-")[0]) for fault in faults.log} == set(Fault)

    outcomes = Counter(each.outcome.kind for each in episodes)
    named = Counter(place for found in places.values() for place in found)
    assert (outcomes["failed"], outcomes["ungraded"]) == (named["failed"], named["ungraded"])
    train = summary.train
    assert train["issued"] == train["scored"] + train["ungraded"] + train["failed"]
    assert train["in_flight"] == 0 and train["failed"] > 0 and train["ungraded"] > 0

    assert [record["metrics"]["step"] for record in steps] == [1, 2, 3, 4]
    by_key = {each.key.columns: each for each in episodes if each.key.split == "train"}
    for record in steps:
        check_step(record, by_key)


def check_step(record: dict[str, Any], episodes: dict[Any, Trajectory]) -> None:
    """Means and advantages are those of the scored members; the others are rejected, each with its reason."""
    rewards = dict[Any, float]()
    expected = dict[Any, float]()
    for keys in record["groups"]:
        scored = {tuple(key): episodes[tuple(key)].reward for key in keys}
        known = {key: reward for key, reward in scored.items() if reward is not None}
        rewards |= known
        if len(known) > 1 and len(set(known.values())) > 1:
            (values,) = load_advantage("grpo")([[Graded(reward=reward) for reward in known.values()]])
            expected |= dict(zip(known, values, strict=True))
    rows = [row for update in record["updates"] for row in update["rows"]]
    for row in rows:
        assert row["advantages"] == pytest.approx([expected[tuple(row["key"])]] * len(row["positions"]))
    assert {tuple(row["key"]) for row in rows} == expected.keys()
    assert record["metrics"]["reward"] == pytest.approx(fmean(rewards.values()))
    turned_away = {(task, epoch, sample): reason for task, epoch, sample, reason, _ in record["rejected"]}
    for keys in record["groups"]:
        for key in map(tuple, keys):
            kind = episodes[key].outcome.kind
            assert (key in expected) != (key[:3] in turned_away)
            assert isinstance(episodes[key].outcome, Scored) or turned_away[key[:3]] == kind
