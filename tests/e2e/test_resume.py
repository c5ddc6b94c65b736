"""kill -9 anything, resume, lose nothing: whole runs of `palaestra train`, stopped at every kind of moment."""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from support import ROOT
from trainings import Training

TASKS = {"config": {"max_terms": 2, "max_digits": 1}, "size": 10, "instructions": ""}
TINY = {"layers": 1, "hidden": 32, "heads": 2, "kv_heads": 1, "head_dim": 16, "intermediate": 64, "vocab": 160}
RECIPE: dict[str, Any] = {
    "name": "tiny",
    "seed": 3,
    "deterministic": True,
    "threads": 1,
    "env": {"id": "trained_envs:Sums", "tasks": TASKS, "held_out": 4, "budget": {"max_turns": 3}},
    "model": {"tool_format": "react", "describe_tools": False, "tiny": {**TINY, "max_context": 160}},
    "engine": {"slots": 8, "max_in_flight": 4},
    "sampling": {"max_tokens": 32},
    "warm_start": {"demonstrations": 6, "steps": 20, "batch_size": 4, "optimizer": {"lr": 1e-2}},
    "optimizer": {"lr": 3e-3, "schedule": "cosine"},
    "grpo": {"steps": 4, "tasks_per_step": 2, "group_size": 2, "updates_per_step": 2},
    "evaluation": {"every": 2},
    "checkpoint": {"every": 2},
}
"""Six training tasks, eight groups: the last step begins a second epoch."""

Key = tuple[str, int, str, int, int]
KEY = "split, epoch, task_id, sample, attempt"


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """All that a finished run has to show but the seconds that it took."""

    episodes: dict[Key, tuple[str, str, str]]
    """Outcome, tokens and messages."""
    steps: list[tuple[int, dict[str, Any]]]
    metrics: list[dict[str, Any]]
    summary: dict[str, Any]


def result(run: Training) -> Result:
    rows = run.query(f"SELECT {KEY}, outcome, graph, json_extract(episode, '$.messages') FROM episodes")
    steps = [(step, json.loads(record)) for step, record in run.query("SELECT * FROM steps ORDER BY step")]
    summary: dict[str, Any] = json.loads((run.run / "summary.json").read_text())
    lines = (run.run / "metrics.jsonl").read_text().splitlines()
    return Result(
        episodes={row[:5]: row[5:] for row in rows},
        steps=[(step, record | {"metrics": timeless(record["metrics"])}) for step, record in steps],
        metrics=[timeless(json.loads(line)) for line in lines],
        summary={name: found for name, found in summary.items() if name not in ("name", "seconds")},
    )


def timeless(metrics: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in metrics.items() if not name.endswith("_s")}


def finished(run: Training) -> dict[Key, tuple[float, float]]:
    """When each episode that has ended was issued and finished."""
    rows = run.query(f"SELECT {KEY}, issued_at, finished_at FROM episodes WHERE state != 'issued'")
    return {row[:5]: row[5:] for row in rows}


def check_same(run: Training, reference: Training) -> None:
    """Not a bit, an episode or a figure apart."""
    assert result(run) == result(reference)
    for folder in ("warm-start", "policy"):
        (name,) = (path.name for path in (reference.run / folder).glob("*.safetensors"))
        ours, theirs = load_file(run.run / folder / name), load_file(reference.run / folder / name)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[tensor], theirs[tensor]) for tensor in ours), folder


def check_whole(run: Training, steps: int) -> None:
    """Every step stands once where it should, and no sample was trained twice."""
    found = result(run)
    assert [step for step, _ in found.steps] == [line["step"] for line in found.metrics] == [*range(1, steps + 1)]
    trained = [tuple(key[:3]) for _, record in found.steps for group in record["groups"] for key in group]
    assert len(set(trained)) == len(trained)
    updated = {tuple(row["key"][:3]) for _, r in found.steps for update in r["updates"] for row in update["rows"]}
    assert updated and updated <= set(trained)
    assert all(outcome is not None for outcome, *_ in found.episodes.values())


def go_on(run: Training, stop: Callable[[Training], int]) -> int:
    """Start the run once more and stop it; what had ended before is as it was."""
    before = finished(run)
    code = stop(run)
    after = finished(run)
    assert {key: after.get(key) for key in before} == before
    return code


def after(split: str, number: int) -> Callable[[Training], int]:
    """kill -9 as soon as so many episodes of a split have ended."""
    return lambda run: run.start().stop_when(lambda: run.num_finished(split) >= number)


def inside(where: str, number: int) -> Callable[[Training], int]:
    """kill -9 at a file event."""
    return lambda run: run.start(kill_at=(where, number)).wait()


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Training:
    """A run from start to end, in a process with imports, hashes and addresses of its own."""
    run = Training(tmp_path_factory.mktemp("reference"), RECIPE)
    main = "from palaestra.cli.main import main; main()"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tests"), "PYTHONHASHSEED": "random"}
    subprocess.run([sys.executable, "-P", "-c", main, *run.command()], check=True, env=environment)
    check_whole(run, steps=4)
    return run


def test_a_run_is_the_same_bits_again(reference: Training, tmp_path: Path) -> None:
    run = Training(tmp_path, RECIPE)
    assert run.start().wait() == 0
    check_same(run, reference)


def test_a_run_that_is_killed_in_every_stage_ends_with_the_same_bits(
    reference: Training, tmp_path: Path
) -> None:
    chance = random.Random(0)
    kills = [
        after("demonstrations", chance.randint(1, 5)),
        inside("model", chance.randint(1, 5)),
        after("baseline", 4),  # in the middle of the warm start
        inside("warm-start", chance.randint(1, 5)),
        after("train", chance.randint(1, 7)),
        inside("checkpoints/.step-000002", chance.randint(1, 4)),
        after("step-000002", chance.randint(1, 3)),
        after("train", chance.randint(9, 15)),
        inside("metrics", chance.randint(2, 4)),
        after("final", chance.randint(1, 3)),
        inside("policy", chance.randint(1, 5)),
    ]
    run = Training(tmp_path, RECIPE)
    assert [go_on(run, kill) for kill in kills] == [-signal.SIGKILL] * len(kills)
    assert go_on(run, lambda run: run.start().wait()) == 0
    check_same(run, reference)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_a_checkpoint_of_the_last_step(
    reference: Training, tmp_path: Path, number: int, code: int
) -> None:
    run = Training(tmp_path, RECIPE)

    def stop(split: str, num: int) -> int:
        return go_on(run, lambda run: run.start().stop_when(lambda: run.num_finished(split) >= num, number))

    assert stop("baseline", 1) == code
    for split, num in (("train", 5), ("step-000002", 1), ("train", 13)):
        assert stop(split, num) == code
        ((last,),) = run.query("SELECT max(step) FROM steps")
        assert (run.run / "checkpoints" / f"step-{last:06d}" / "manifest.json").exists()
    assert "go on with --resume" in run.log() and "Traceback" not in run.log()
    assert go_on(run, lambda run: run.start().wait()) == 0
    check_same(run, reference)


def test_a_run_that_is_over_can_be_resumed_and_stays_as_it_is(reference: Training) -> None:
    before = result(reference)
    assert go_on(reference, lambda run: run.start().wait()) == 0
    assert result(reference) == before


@pytest.mark.acceptance
def test_a_kill_at_any_file_event_changes_nothing(reference: Training, tmp_path: Path) -> None:
    number, code = 0, -signal.SIGKILL
    while code == -signal.SIGKILL:
        number += 1
        run = Training(tmp_path / str(number), RECIPE)
        run.folder.mkdir()
        code = go_on(run, inside("", number))
        assert go_on(run, lambda run: run.start().wait()) == 0
        check_same(run, reference)
    assert number > 30 and code == 0


@pytest.mark.acceptance
def test_the_quickstart_survives_twenty_kills_bit_for_bit(tmp_path: Path) -> None:
    recipe = yaml.safe_load((ROOT / "examples" / "quickstart.yaml").read_text())
    recipe |= {"deterministic": True, "threads": 1, "checkpoint": {"every": 4}}
    recipe["grpo"]["steps"], recipe["env"]["held_out"] = 10, 50
    recipe["warm_start"] |= {"demonstrations": 256, "steps": 40}
    recipe["evaluation"] = {"every": 5}
    whole = Training(tmp_path / "whole", recipe)
    run = Training(tmp_path / "killed", recipe)
    for each in (whole, run):
        each.folder.mkdir()
    assert whole.start().wait() == 0
    episodes = "SELECT count(*) FROM episodes WHERE state != 'issued'"
    ((total,),) = whole.query(episodes)
    moments = sorted(random.Random(0).sample(range(1, total), 20))
    for moment in moments:
        kill = lambda run, moment=moment: run.start().stop_when(
            lambda: run.query(episodes) >= [(moment,)]
        )
        assert go_on(run, kill) == -signal.SIGKILL
    assert go_on(run, lambda run: run.start().wait()) == 0
    check_whole(run, steps=10)
    check_same(run, whole)
