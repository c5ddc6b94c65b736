"""A run without numbers, or with a broken policy, never looks like one that is done."""

import json
from pathlib import Path
from typing import Any

from command import TinyRun, forked, write_recipe


def recipe_of(env: str, folder: Path, tiny_run: TinyRun, *, steps: int) -> Path:
    """A recipe for a model that exists."""
    return write_recipe(
        folder,
        env={"id": f"cli_envs:{env}", "held_out": 4},
        model={"path": str(tiny_run.folder / "model"), "tool_format": "none"},
        warm_start=None,
        grpo={"tasks_per_step": 4, "group_size": 4, "retry_s": 0, "steps": steps},
    )


def metrics(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "runs" / "tiny" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_a_service_that_is_down_stops_the_run_until_it_is_up(tmp_path: Path, tiny_run: TinyRun) -> None:
    recipe = recipe_of("Served", tmp_path, tiny_run, steps=5)
    done = forked("train", recipe, cwd=tmp_path)
    assert done.code == 2 and done.stderr.count("\n") == 1, done
    assert "nobody could play step 1 in 10 tries" in done.stderr
    assert "16 of 16 ended with: reset: ConnectionError: the service is down" in done.stderr
    assert "--resume" in done.stderr
    assert not (tmp_path / "runs" / "tiny" / "policy").exists()
    done = forked("train", recipe, "--resume", cwd=tmp_path, env={"SERVICE": "up"})
    assert done.code == 0, done
    assert [line["scored"] for line in metrics(tmp_path)] == [16] * 5


def test_a_grader_that_never_has_a_number_stops_the_run(tmp_path: Path, tiny_run: TinyRun) -> None:
    recipe = recipe_of("NeverGraded", tmp_path, tiny_run, steps=5)
    done = forked("train", recipe, cwd=tmp_path)
    assert done.code == 2 and done.stderr.count("\n") == 1, done
    assert "no episode of the last 3 steps has a number" in done.stderr
    assert [line["ungraded"] for line in metrics(tmp_path)] == [16] * 3


def test_a_final_evaluation_without_a_number_is_exit_code_1(tmp_path: Path, tiny_run: TinyRun) -> None:
    done = forked("train", recipe_of("NeverGraded", tmp_path, tiny_run, steps=1), "--json", cwd=tmp_path)
    assert done.code == 1
    assert json.loads(done.stdout)["evaluations"]["final"]["reward"] is None


def test_weights_that_diverge_are_not_kept(tmp_path: Path) -> None:
    done = forked("train", write_recipe(tmp_path, optimizer={"lr": 1e30}), cwd=tmp_path)
    assert done.code == 2 and done.stderr.count("\n") == 1, done
    assert "optimizer step 1 (lr 1e+30" in done.stderr and "a lower lr" in done.stderr
    run = tmp_path / "runs" / "tiny"
    assert not (run / "policy").exists() and not list((run / "checkpoints").glob("*"))


def test_damaged_metrics_are_made_again_from_the_run_file(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    assert forked("train", recipe, cwd=tmp_path).code == 0
    path = tmp_path / "runs" / "tiny" / "metrics.jsonl"
    whole = path.read_bytes()
    for damaged in (None, bytes(64), whole[:-9] + b"\xff" + whole[-8:], whole.replace(b"step", b"stap")):
        path.unlink()
        if damaged is not None:
            path.write_bytes(damaged)
        assert forked("train", recipe, "--resume", cwd=tmp_path).code == 0
        assert path.read_bytes() == whole


def recipe_with_loss(folder: Path, tiny_run: TinyRun, **options: Any) -> Path:
    """Six steps with a loss that is mostly no number."""
    grpo = {"tasks_per_step": 4, "group_size": 4, "steps": 6, "loss": "broken_losses:NoNumber"}
    model = {"path": str(tiny_run.folder / "model"), "tool_format": "none"}
    return write_recipe(folder, model=model, warm_start=None, grpo={**grpo, "loss_options": options})


def test_a_run_whose_every_update_is_thrown_away_ends_and_says_so(tmp_path: Path, tiny_run: TinyRun) -> None:
    done = forked("train", recipe_with_loss(tmp_path, tiny_run), cwd=tmp_path)
    assert done.code == 2 and done.stderr.count("\n") == 1, done
    assert "every update of the last 3 steps with one was left out" in done.stderr
    assert "nan" in done.stderr and "model.dtype" in done.stderr
    assert [line["skipped"] for line in metrics(tmp_path)] == [1] * 3
    assert not (tmp_path / "runs" / "tiny" / "policy").exists()


def test_updates_that_are_thrown_away_now_and_then_do_not_end_a_run(
    tmp_path: Path, tiny_run: TinyRun
) -> None:
    done = forked("train", recipe_with_loss(tmp_path, tiny_run, good=3), cwd=tmp_path)
    assert done.code == 0, done
    assert [line["skipped"] for line in metrics(tmp_path)] == [1, 1, 0, 1, 1, 0]
