"""Runs that refill their groups, shape and mask what is long, and stop early: killed, resumed, replayed."""

import json
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from trainings import TINY_RECIPE, Training, after, check_same, check_whole, go_on, inside, result

from palaestra.agents.ledger import Ledger
from palaestra.trainer.recipe_file import read_recipe
from palaestra.trainer.reporting.replay import replay_stored

pytestmark = pytest.mark.timeout(600)

GRPO = TINY_RECIPE["grpo"] | {
    "steps": 3,
    "group_size": 3,
    "refill": 3,
    "lost": "group",
    "overlong": {"max_tokens": 40, "cache_tokens": 30},
    "truncated": "mask",
}
RECIPE: dict[str, Any] = TINY_RECIPE | {
    "env": TINY_RECIPE["env"]
    | {"id": "trained_envs:UnsureSums", "budget": {"max_turns": 3, "max_tokens": 40}},
    "warm_start": TINY_RECIPE["warm_start"] | {"demonstrations": 6, "steps": 10},
    "grpo": GRPO,
    "evaluation": {},
    "peak_tflops": 0.5,
    "trackers": [{"kind": "csv", "aliases": ["sagemaker"]}],
}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Training:
    run = Training(tmp_path_factory.mktemp("reference"), RECIPE)
    assert run.start().wait() == 0, run.log()
    return run


def test_groups_are_refilled_and_every_rollout_is_accounted_for(reference: Training) -> None:
    check_whole(reference, steps=3)
    found = result(reference)
    rejected = Counter(reason for _, record in found.steps for *_, reason, _ in record["rejected"])
    assert rejected["replaced"] > 2 and rejected["masked"] > 0
    metrics = [record["metrics"] for _, record in found.steps]
    assert sum(each.get("replaced", 0) for each in metrics) == rejected["replaced"]
    assert all(each["overlong_share"] > 0 and each["reward_shaped"] < each["reward"] for each in metrics)
    played = [key for key in found.episodes if key[0] == "train"]
    assert sum(each["episodes"] for each in metrics) == len(played) > 3 * 2 * 3
    for _, record in found.steps:
        for group in record["groups"]:
            assert sorted(sample % 3 for _, _, sample, _ in group) == [0, 1, 2]


def test_the_losses_are_found_again_in_the_run_file(reference: Training) -> None:
    recipe = read_recipe(reference.run / "recipe.yaml")
    with Ledger(reference.run, read_only=True) as ledger:
        replayed = [each for step in (1, 2, 3) for each in replay_stored(ledger, recipe, step)]
    assert replayed
    for each in replayed:
        assert each.differences == () and each.loss == pytest.approx(each.stored_loss, abs=1e-6)


def while_refilling(number: int) -> Callable[[Training], int]:
    """kill -9 as soon as so many rollouts have been begun in the place of another."""
    sql = "SELECT count(*) FROM episodes WHERE split = 'train' AND sample >= 3"
    return lambda run: run.start().stop_when(lambda: sum(n for (n,) in run.query(sql)) >= number)


@pytest.mark.parametrize("changes", [{}, {"grading": {"kind": "inline"}}], ids=["at once", "detached"])
def test_killed_while_it_refills_a_run_ends_with_the_same_bits(
    reference: Training, tmp_path: Path, changes: dict[str, Any]
) -> None:
    run = Training(tmp_path, RECIPE | changes)
    kills = [while_refilling(1), after("train", 6), while_refilling(4), inside("metrics", 2)]
    assert [go_on(run, kill) for kill in kills] == [-signal.SIGKILL] * len(kills)
    assert go_on(run, lambda run: run.start().wait()) == 0, run.log()
    check_same(run, reference)


def test_the_table_of_steps_has_the_names_of_a_training_job(reference: Training) -> None:
    header, *rows = (reference.run / "steps.csv").read_text().splitlines()
    assert len(rows) == 3
    table = [dict(zip(header.split(","), row.split(","), strict=True)) for row in rows]
    for row in table:
        assert row["critic/score/mean"] == row["reward"] != row["critic/rewards/mean"] == row["reward_shaped"]
        assert float(row["perf/mfu/actor"]) == pytest.approx(float(row["flops_per_s"]) / 0.5e12)


STOPPING: dict[str, Any] = TINY_RECIPE | {
    "warm_start": TINY_RECIPE["warm_start"] | {"steps": 10},
    "evaluation": {"every": 1, "early_stopping": {"patience": 2, "min_delta": 10.0}},
    "checkpoint": {"every": 4, "keep_best": 1},
}


def test_a_run_that_does_not_get_better_stops_says_so_and_stops_there_again_after_kills(
    tmp_path: Path,
) -> None:
    whole, run = Training(tmp_path / "whole", STOPPING), Training(tmp_path / "killed", STOPPING)
    for each in (whole, run):
        each.folder.mkdir()
    assert whole.start().wait() == 0, whole.log()
    summary = json.loads((whole.run / "summary.json").read_text())
    assert summary["steps"] == 2
    assert summary["stopped"].startswith("stopped early at step 2: 2 evaluations in a row were not over the ")
    assert summary["stopped"] in whole.log()
    assert [*summary["evaluations"]][-1] == "final" and "step-000003" not in summary["evaluations"]
    kills = [after("step-000001", 2), after("step-000002", 2), after("final", 2), inside("policy", 2)]
    assert [go_on(run, kill) for kill in kills] == [-signal.SIGKILL] * len(kills)
    for _ in range(2):  # and once more when it is over
        assert go_on(run, lambda run: run.start().wait()) == 0, run.log()
        check_same(run, whole)
