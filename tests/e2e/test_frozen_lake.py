"""A tiny model crosses frozen lakes: maps that it has never seen, and Gymnasium's own."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command import MAIN, forked
from support import ROOT

RECIPE = ROOT / "examples" / "frozen_lake.yaml"
STANDARD = ("env.tasks.size=null", "env.tasks.num_maps=1", "env.held_out=1")
SMALL = (
    "env.tasks.num_maps=60",
    "env.held_out=4",
    "warm_start.demonstrations=16",
    "warm_start.steps=21",
    "warm_start.batch_size=2",
    "grpo.steps=2",
    "grpo.tasks_per_step=4",
    "grpo.group_size=4",
    "optimizer.warmup_steps=0",
    "threads=1",
)


def training(folder: Path, *sets: str) -> list[str]:
    """The arguments that train in `folder`/runs."""
    return ["train", str(RECIPE), "--json", *_overrides(f"runs_dir={folder / 'runs'}", *sets)]


def standard_map(folder: Path, samples: int, *sets: str) -> list[str]:
    """The arguments that play what came of it on the standard map, as the recipe's comment says."""
    policy = str(folder / "runs" / "frozen-lake" / "policy")
    overrides = _overrides(f"runs_dir={folder / 'runs'}", *STANDARD, *sets)
    return ["eval", str(RECIPE), "--json", "--policy", policy, "--samples", str(samples), *overrides]


def _overrides(*sets: str) -> list[str]:
    return [word for setting in sets for word in ("--set", setting)]


def run(arguments: list[str]) -> Any:
    """What the command says, however long it takes."""
    done = subprocess.run([sys.executable, "-P", "-c", MAIN, *arguments], check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout)


def test_the_recipe_trains_and_its_policy_plays_the_standard_map(tmp_path: Path) -> None:
    trained = forked(*training(tmp_path, *SMALL), cwd=tmp_path)
    assert trained.code == 0, trained.stderr
    summary = json.loads(trained.stdout)
    assert summary["train"]["issued"] == summary["train"]["scored"] == 32
    played = forked(*standard_map(tmp_path, 2, "threads=1"), cwd=tmp_path)
    assert played.code == 0, played.stderr
    found = json.loads(played.stdout)
    assert (found["num_tasks"], found["outcomes"]) == (1, {"scored": 2})


@pytest.mark.acceptance
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_tiny_model_learns_to_cross_unseen_lakes_and_the_standard_one(tmp_path: Path, seed: int) -> None:
    evaluations = run(training(tmp_path, f"seed={seed}"))["evaluations"]
    warm, final = evaluations["warm-start"]["pass_at"]["1"], evaluations["final"]["pass_at"]["1"]
    assert evaluations["final"]["num_tasks"] == 100
    assert final["value"] >= 0.8 and final["value"] > warm["value"]
    standard = run(standard_map(tmp_path, 50, f"seed={seed}"))
    assert standard["num_episodes"] == 50 and standard["pass_at"]["1"]["value"] >= 0.95
