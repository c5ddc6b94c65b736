"""The recipe of the retail environment, on its demo shop."""

import json
from pathlib import Path

from command import forked
from support import ROOT

RECIPE = str(ROOT / "examples" / "retail.yaml")
SMALL = (
    "env.held_out=4",
    "env.tasks.size=40",
    "grpo.steps=1",
    "grpo.tasks_per_step=2",
    "grpo.group_size=2",
    "optimizer.warmup_steps=0",
    "sampling.max_tokens=16",
    "threads=1",
)


def overrides(folder: Path, *sets: str) -> list[str]:
    return [word for setting in (f"runs_dir={folder / 'runs'}", *sets) for word in ("--set", setting)]


def test_the_recipe_trains_a_model_from_random_weights(tmp_path: Path) -> None:
    done = forked("train", RECIPE, "--json", *overrides(tmp_path, *SMALL), cwd=tmp_path)
    assert done.code == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["train"]["issued"] == summary["train"]["scored"] == 4


def test_the_oracle_solves_all_held_out_tasks_of_the_recipe(tmp_path: Path) -> None:
    done = forked("eval", RECIPE, "--policy", "oracle", "--json", *overrides(tmp_path), cwd=tmp_path)
    assert done.code == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["num_tasks"], found["reward"]["value"]) == (100, 1.0)
