"""Trackers: each one's own files, read back by its own reader."""

import csv
import re
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from support import run_async

from palaestra.trainer.recipe import GrpoSection
from palaestra.trainer.trackers import RunInfo, Tracker, UnknownTracker, open_tracker, tracker_names
from palaestra.trainer.trackers.aliases import Aliased, other_numbers, with_aliases
from palaestra.trainer.trackers.several import Trackers

FIRST = [{"step": 1, "reward": 0.25}, {"step": 2, "reward": 0.5}]


def info(folder: Path) -> RunInfo:
    return RunInfo(name="x", folder=folder, recipe={"name": "x", "grpo": {"steps": 3}})


def track(name: str, folder: Path, *rows: Mapping[str, float], known: int = 0, **options: Any) -> None:
    """One start of a run, whose first `known` rows hold already."""
    tracker = open_tracker(name, info(folder), options)
    tracker.resume(rows[:known])
    for row in rows[known:]:
        tracker.log(int(row["step"]), row)
    tracker.close()


def lines_of(folder: Path) -> list[list[str]]:
    with (folder / "steps.csv").open(newline="") as file:
        return list(csv.reader(file))


def test_a_csv_has_a_column_for_each_metric_also_for_one_that_comes_late(tmp_path: Path) -> None:
    track("csv", tmp_path, *FIRST, {"step": 3, "kl": 0.125})
    assert lines_of(tmp_path) == [
        ["step", "reward", "kl"],
        ["1", "0.25", ""],
        ["2", "0.5", ""],
        ["3", "", "0.125"],
    ]


def test_a_csv_forgets_the_steps_that_a_restart_does_not_know(tmp_path: Path) -> None:
    track("csv", tmp_path, *FIRST, {"step": 3, "reward": 9.0})
    track("csv", tmp_path, *FIRST, {"step": 3, "reward": 0.75}, known=2)
    assert [line[1] for line in lines_of(tmp_path)] == ["reward", "0.25", "0.5", "0.75"]


def test_tensorboard_reads_what_was_logged_and_a_restart_replaces_what_came_after(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    track("tensorboard", tmp_path, *FIRST, {"step": 3, "reward": 9.0})
    track("tensorboard", tmp_path, *FIRST, {"step": 3, "reward": 0.75}, known=2)
    accumulator = import_module("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("reward")] == [
        (1, 0.25),
        (2, 0.5),
        (3, 0.75),
    ]


@pytest.mark.filterwarnings("ignore:The filesystem tracking backend:FutureWarning")
def test_mlflow_has_one_run_with_the_recipe_over_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # the one store that needs no server
    store = f"file:{tmp_path / 'store'}"
    track("mlflow", tmp_path, *FIRST, tracking_uri=store)
    track("mlflow", tmp_path, *FIRST, {"step": 3, "reward": 0.75}, known=2, tracking_uri=store)
    client: Any = import_module("mlflow.tracking").MlflowClient(store)
    (experiment,) = (each for each in client.search_experiments() if each.name == "palaestra")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.params == {"name": "x", "grpo.steps": "3"} and run.info.status == "FINISHED"
    told = [(each.step, each.value) for each in client.get_metric_history(run.info.run_id, "reward")]
    assert told == [(1, 0.25), (2, 0.5), (3, 0.75)]


@pytest.mark.alone  # a process of wandb writes the file: under a load of 50 it was still without rows
def test_wandb_keeps_one_run_of_a_folder_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setattr(sys, "exit", sys.exit)  # wandb puts its own there and leaves it
    track("wandb", tmp_path, *FIRST, mode="offline")
    track("wandb", tmp_path, *FIRST, {"step": 3, "reward": 0.75}, known=2, mode="offline")
    logs = sorted(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))
    # Two starts in one second share a folder of theirs, too.
    assert len({log.name for log in logs}) == 1
    assert b"reward" in logs[-1].read_bytes()


class Broken:
    def __init__(self, run: RunInfo) -> None:
        self.told: list[int] = []

    def resume(self, rows: object) -> None: ...

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.told.append(step)
        raise ConnectionError("nobody there")

    def close(self) -> None:
        self.told.append(-1)


def test_a_tracker_that_fails_is_left_out_and_the_others_go_on(tmp_path: Path) -> None:
    broken, words = Broken(info(tmp_path)), list[str]()
    parts: dict[str, Tracker] = {"odd": broken, "csv": open_tracker("csv", info(tmp_path), {})}

    async def two_steps() -> None:
        trackers = Trackers(parts, words.append)
        await trackers.resume([])
        for step in (1, 2):
            await trackers.log(step, {"step": step, "reward": 0.5, "loss": float("nan"), "name": "x"})
        await trackers.close()

    run_async(two_steps())
    assert broken.told == [1]
    assert words == ["tracker odd: ConnectionError: nobody there; it is told nothing from here on"]
    assert lines_of(tmp_path) == [["step", "reward"], ["1", "0.5"], ["2", "0.5"]]


def test_a_tracker_of_ones_own_is_named_by_module_and_class(tmp_path: Path) -> None:
    assert isinstance(open_tracker(f"{__name__}:Broken", info(tmp_path), {}), Broken)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [("cvs", {}, "known: csv, mlflow, tensorboard, wandb"), ("csv", {"sep": ";"}, "sep")],
)
def test_a_wrong_tracker_or_option_is_named(
    tmp_path: Path, name: str, options: dict[str, str], words: str
) -> None:
    with pytest.raises(UnknownTracker, match=words):
        open_tracker(name, info(tmp_path), options)


def test_every_tracker_has_a_test() -> None:
    assert tracker_names() == ["csv", "mlflow", "tensorboard", "wandb"]


def test_a_tracker_is_told_the_names_of_aws_beside_ours(tmp_path: Path) -> None:
    tracker = Aliased(open_tracker("csv", info(tmp_path), {}), ["sagemaker", "hyperpod", "bedrock"])
    tracker.resume([{"step": 1, "reward": 0.25}])
    tracker.log(2, {"step": 2, "reward": 0.5, "reward_shaped": 0.375, "clip_fraction": 0.125, "odd": 1.0})
    tracker.close()
    header, first, second = lines_of(tmp_path)
    told = [dict(zip(header, line, strict=True)) for line in (first, second)]
    assert [row["critic/score/mean"] for row in told] == ["0.25", "0.5"]
    assert [row["critic/rewards/mean"] for row in told] == ["0.25", "0.375"]
    assert [row["train_rm_score"] for row in told] == [row["reward"] for row in told]
    assert [row["step_number"] for row in told] == [row["training/global_step"] for row in told] == ["1", "2"]
    assert [row["clipfrac"] for row in told] == ["", "0.125"]
    assert "actor/entropy" not in header and "perf/mfu/actor" not in header


def test_the_reward_of_a_training_job_is_read_out_of_our_numbers_as_aws_reads_its_logs() -> None:
    metrics = with_aliases({"step": 7, "reward": -0.125}, ["sagemaker", "hyperpod"])
    line = " - ".join(f"{name}:{value}" for name, value in metrics.items())
    number = r"(-?[\d.]+(?:[eE][+-]?\d+)?)"
    for pattern in (rf"critic/rewards/mean[=:]\s*{number}", rf"train_rm_score:\s*{number}"):
        found = re.search(pattern, line)
        assert found is not None and float(found[1]) == -0.125
    assert re.search(r"global_step[=:]\s*([\d.]+)", line)


@pytest.mark.parametrize(
    ("changes", "left_out"),
    [
        ({}, []),
        ({"kl_coefficient": 0.1}, ["actor/pg_loss"]),
        ({"kl_coefficient": 0.1, "kl_kind": "k1"}, ["critic/rewards/mean"]),
        ({"entropy_coefficient": 0.1}, ["actor/pg_loss"]),
        (
            {"kl_coefficient": 0.1, "kl_kind": "k1", "entropy_coefficient": 0.1},
            ["actor/pg_loss", "critic/rewards/mean"],
        ),
    ],
)
def test_a_name_is_left_out_where_the_recipe_makes_another_number_of_it(
    changes: dict[str, Any], left_out: list[str]
) -> None:
    metrics = {"loss": 0.5, "reward": 1.0}
    omit = other_numbers(GrpoSection.model_validate(changes))
    told = with_aliases(metrics, ["sagemaker"], omit)
    assert sorted(with_aliases(metrics, ["sagemaker"]).keys() - told.keys()) == left_out
    assert with_aliases(metrics, ["hyperpod"], omit)["reduced_train_loss"] == 0.5
