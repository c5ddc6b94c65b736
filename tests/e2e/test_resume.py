"""kill -9 anything, resume, lose nothing: runs of `palaestra train`, stopped at all kinds of moments."""

import os
import random
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import ROOT
from trainings import TINY_RECIPE, Training, after, check_same, check_whole, go_on, inside, result

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Training:
    """A run from start to end, in a process with imports, hashes and addresses of its own."""
    run = Training(tmp_path_factory.mktemp("reference"), TINY_RECIPE)
    main = "from palaestra.cli.main import main; main()"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tests"), "PYTHONHASHSEED": "random"}
    subprocess.run([sys.executable, "-P", "-c", main, *run.command()], check=True, env=environment)
    check_whole(run, steps=4)
    return run


def test_a_run_is_the_same_bits_again(reference: Training, tmp_path: Path) -> None:
    run = Training(tmp_path, TINY_RECIPE)
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
        inside("sft/checkpoints/.step-000006", chance.randint(1, 4)),
        inside("warm-start", chance.randint(1, 5)),
        after("train", chance.randint(1, 7)),
        inside("checkpoints/.step-000002", chance.randint(1, 4)),
        after("step-000002", chance.randint(1, 3)),
        after("train", chance.randint(9, 15)),
        inside("metrics", chance.randint(2, 4)),
        after("final", chance.randint(1, 3)),
        inside("policy", chance.randint(1, 5)),
    ]
    run = Training(tmp_path, TINY_RECIPE)
    assert [go_on(run, kill) for kill in kills] == [-signal.SIGKILL] * len(kills)
    assert go_on(run, lambda run: run.start().wait()) == 0
    check_same(run, reference)


def test_a_signal_leaves_a_checkpoint_of_the_last_step(reference: Training, tmp_path: Path) -> None:
    run = Training(tmp_path, TINY_RECIPE)

    def stop(split: str, num: int, number: int) -> int:
        return go_on(run, lambda run: run.start().stop_when(lambda: run.num_finished(split) >= num, number))

    assert stop("baseline", 1, signal.SIGTERM) == 143
    for split, num, number, code in (
        ("train", 5, signal.SIGINT, 130),
        ("step-000002", 1, signal.SIGTERM, 143),
        ("train", 13, signal.SIGINT, 130),
    ):
        assert stop(split, num, number) == code
        ((last,),) = run.query("SELECT max(step) FROM steps")
        assert (run.run / "checkpoints" / f"step-{last:06d}" / "manifest.json").exists()
    assert "go on with --resume" in run.log() and "Traceback" not in run.log()
    assert go_on(run, lambda run: run.start().wait()) == 0
    check_same(run, reference)


def test_a_run_that_is_over_can_be_resumed_and_stays_as_it_is(reference: Training) -> None:
    before = result(reference)
    assert go_on(reference, lambda run: run.start().wait()) == 0
    assert result(reference) == before


TEN_STEPS: dict[str, Any] = TINY_RECIPE | {
    "warm_start": TINY_RECIPE["warm_start"] | {"steps": 5},
    "grpo": TINY_RECIPE["grpo"] | {"steps": 10},
    "evaluation": {},
    "checkpoint": {"every": 5},
}


@pytest.mark.parametrize("lora", [None, {"rank": 4}], ids=["full", "lora"])
def test_ten_steps_are_five_and_a_kill_and_five(tmp_path: Path, lora: dict[str, Any] | None) -> None:
    whole, run = (Training(tmp_path / name, TEN_STEPS | {"lora": lora}) for name in ("whole", "killed"))
    for each in (whole, run):
        each.folder.mkdir()
    assert whole.start().wait() == 0, whole.log()
    check_whole(whole, steps=10)
    assert go_on(run, after("train", 5 * 4 + 1)) == -signal.SIGKILL  # in the sixth step
    assert go_on(run, lambda run: run.start().wait()) == 0, run.log()
    assert run.log().count("going on after step 5\n") == 1
    check_same(run, whole)


SUPERVISED: dict[str, Any] = TINY_RECIPE | {
    "warm_start": TINY_RECIPE["warm_start"] | {"steps": 12, "lora": {"rank": 4}},
    "grpo": {"steps": 0},
    "evaluation": {},
    "checkpoint": {"every": 5},
    "trackers": ["csv"],
}


def test_a_supervised_stage_goes_on_from_its_checkpoint_and_keeps_its_numbers(tmp_path: Path) -> None:
    whole, run = (Training(tmp_path / name, SUPERVISED) for name in ("whole", "killed"))
    for each in (whole, run):
        each.folder.mkdir()
    assert whole.start().wait() == 0, whole.log()
    assert [line["step"] for line in result(whole).supervised] == [*range(1, 13)]
    kills = [inside("sft/checkpoints/.step-000010", 2), inside("warm-start", 3)]
    assert [go_on(run, kill) for kill in kills] == [-signal.SIGKILL] * len(kills)
    assert go_on(run, lambda run: run.start().wait()) == 0, run.log()
    found = re.findall(r"warm start: going on after step (\d+)", run.log())
    assert found == ["5", "12"]
    check_same(run, whole)
    header, *rows = (run.run / "sft" / "steps.csv").read_text().splitlines()
    assert header.startswith("step,sft_loss,lr,grad_norm") and len(rows) == 12
    assert not (run.run / "sft" / "checkpoints").exists()


@pytest.mark.acceptance
def test_a_kill_at_any_file_event_changes_nothing(reference: Training, tmp_path: Path) -> None:
    number, code = 0, -signal.SIGKILL
    while code == -signal.SIGKILL:
        number += 1
        run = Training(tmp_path / str(number), TINY_RECIPE)
        run.folder.mkdir()
        code = go_on(run, inside("", number))
        assert go_on(run, lambda run: run.start().wait()) == 0
        check_same(run, reference)
    assert number > 30 and code == 0


@pytest.mark.acceptance
def test_the_quickstart_survives_twenty_kills_bit_for_bit(tmp_path: Path) -> None:
    recipe = yaml.safe_load((ROOT / "examples" / "quickstart.yaml").read_text())
    recipe |= {"deterministic": True, "threads": 1, "checkpoint": {"every": 4}, "evaluation": {"every": 5}}
    recipe["env"]["held_out"], recipe["warm_start"]["demonstrations"] = 50, 512
    recipe["grpo"] |= {"steps": 10, "tasks_per_step": 8}
    recipe["optimizer"]["warmup_steps"] = 4
    whole = Training(tmp_path / "whole", recipe)
    run = Training(tmp_path / "killed", recipe)
    for each in (whole, run):
        each.folder.mkdir()
    assert whole.start().wait() == 0
    total = len(result(whole).episodes)
    for moment in sorted(random.Random(0).sample(range(1, total), 20)):
        assert go_on(run, after("%", moment)) == -signal.SIGKILL
    assert go_on(run, lambda run: run.start().wait()) == 0
    check_whole(run, steps=10)
    check_same(run, whole)
