"""`palaestra train` on two ranks, as torchrun starts them: killed and resumed, it ends with the same bits."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import ROOT
from trainings import TINY_RECIPE, Training, check_same, result

from palaestra.trainer._torch import read_tensors

pytestmark = pytest.mark.timeout(600)

RECIPE: dict[str, Any] = TINY_RECIPE | {
    "warm_start": {"demonstrations": 6, "steps": 3, "batch_size": 4, "optimizer": {"lr": 1e-2}},
}
TEN_STEPS: dict[str, Any] = RECIPE | {
    "grpo": TINY_RECIPE["grpo"] | {"steps": 10},
    "evaluation": {},
    "checkpoint": {"every": 5},
}
LORA: dict[str, Any] = RECIPE | {
    "name": "lora",
    "lora": {"rank": 4},
    "checkpoint": {"every": 2, "keep": 1, "keep_best": 1},
}


@pytest.mark.parametrize(
    "recipe", [pytest.param(RECIPE, id="full", marks=pytest.mark.acceptance), pytest.param(LORA, id="lora")]
)
def test_on_two_ranks_a_killed_run_ends_with_the_bits_of_one_that_was_not(
    tmp_path: Path, recipe: dict[str, Any]
) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    whole = Training(tmp_path / "whole", recipe, ranks=2)
    assert whole.start().wait() == 0, whole.log()
    run = Training(tmp_path / "killed", recipe, ranks=2)
    assert run.start().stop_when(lambda: run.num_finished("train") >= 9) == -signal.SIGKILL
    assert run.start(kill_at=("checkpoints/.step-000004", 2)).wait() == -signal.SIGKILL
    assert run.start().wait() == 0, run.log()
    check_same(run, whole)
    ours, theirs = (
        sorted(path.name for path in (each.run / "checkpoints").iterdir()) for each in (run, whole)
    )
    assert ours == theirs


@pytest.mark.acceptance
@pytest.mark.parametrize("lora", [None, {"rank": 4}], ids=["full", "lora"])
def test_on_two_ranks_ten_steps_are_five_and_a_kill_and_five(
    tmp_path: Path, lora: dict[str, Any] | None
) -> None:
    whole, run = (
        Training(tmp_path / name, TEN_STEPS | {"lora": lora}, ranks=2) for name in ("whole", "killed")
    )
    for each in (whole, run):
        each.folder.mkdir()
    assert whole.start().wait() == 0, whole.log()
    assert run.start().stop_when(lambda: run.num_finished("train") > 5 * 4) == -signal.SIGKILL
    assert run.start().wait() == 0, run.log()
    assert "going on after step 5\n" in run.log()
    check_same(run, whole)


def test_two_ranks_learn_what_one_learns(tmp_path: Path) -> None:
    """To the last bits of fp32, in which sums depend on their order."""
    runs: list[Training] = []
    for ranks in (1, 2):
        (tmp_path / str(ranks)).mkdir()
        runs.append(Training(tmp_path / str(ranks), RECIPE | {"grpo": {**RECIPE["grpo"], "steps": 1}}, ranks))
        assert runs[-1].start().wait() == 0, runs[-1].log()
    one, two = map(result, runs)
    assert len(one.metrics) == 1
    assert two.metrics[0]["loss"] == pytest.approx(one.metrics[0]["loss"], abs=1e-4)
    assert two.metrics[0]["grad_norm"] == pytest.approx(one.metrics[0]["grad_norm"], rel=1e-3)
    (ours, theirs) = (read_tensors(run.run / "policy" / "model.safetensors") for run in runs)
    assert all(float((ours[name] - theirs[name]).abs().max()) < 1e-3 for name in ours)


def test_a_signal_leaves_a_checkpoint_and_a_lost_rank_ends_the_run(tmp_path: Path) -> None:
    run = Training(tmp_path, RECIPE, ranks=2)
    started = run.start()
    code = started.stop_when(lambda: run.num_finished("train") >= 5, signal.SIGTERM)
    assert (code, started.followers[0].exitcode) == (143, 0), run.log()
    assert any((run.run / "checkpoints").glob("step-*/manifest.json"))
    again = run.start()

    def lose() -> bool:
        is_time = run.num_finished("train") >= 9
        if is_time:
            os.kill(again.followers[0].pid, signal.SIGKILL)
        return is_time

    code = again.stop_when(lose, signal.SIGCONT)
    assert code not in (0, -signal.SIGKILL) and again.followers[0].exitcode == -signal.SIGKILL


@pytest.mark.acceptance
def test_torchrun_starts_the_command(tmp_path: Path) -> None:
    run = Training(tmp_path, RECIPE)
    torchrun = Path(sys.executable).with_name("torchrun")
    palaestra = Path(sys.executable).with_name("palaestra")
    command: list[str | Path] = [torchrun, "--no-python", "--nproc-per-node", "2", palaestra, *run.command()]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tests")}
    subprocess.run(command, check=True, env=environment, timeout=300)
    assert json.loads((run.run / "summary.json").read_text())["steps"] == 4
