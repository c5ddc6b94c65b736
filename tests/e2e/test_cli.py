"""The commands on a tiny run: what they print, for people and for machines, and what they keep secret."""

import json
import re
import shutil
import sqlite3
import sys
from collections.abc import Generator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from command import Done, TinyRun, forked, leave_as_reader, palaestra, write_recipe
from support import run_async
from two_rows import two_rows

from palaestra.agents.ledger import Ledger
from palaestra.cli.console import print_json
from palaestra.trainer.engine_check import compare_engine
from palaestra.trainer.recipe_file import load_recipe
from palaestra.trainer.reporting.progress import Silent


def found(done: Done) -> Any:
    """What a command with `--json` says: nothing but JSON is on its standard output."""
    assert done.code == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def own_run(tiny_run: TinyRun, tmp_path: Path) -> Path:
    """A copy of the tiny run's working folder."""
    return shutil.copytree(tiny_run.cwd, tmp_path / "copy")


def test_training_prints_its_summary_for_machines(tiny_run: TinyRun) -> None:
    summary = found(tiny_run.done)
    assert list(summary["evaluations"]) == ["baseline", "warm-start", "final"]
    assert summary["steps"] == 2 and summary["train"]["scored"] == 32
    assert summary == json.loads((tiny_run.folder / "summary.json").read_text())


def test_a_terminal_shows_figures_speed_and_what_the_run_waits_for(tiny_run: TinyRun) -> None:
    assert "\x1b[" in tiny_run.screen
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", tiny_run.screen)
    number = r"-?\d+\.\d{3}"
    figures = rf"reward {number}  pass rate {number}  entropy {number}"
    for step in (1, 2):
        assert re.search(rf"step {step}  {figures} *\r\n\d+ episodes/s  waits for \w+", text)
    assert re.search(r"grpo .* 1/2 ", text)


def test_a_pipe_gets_a_line_for_each_step_and_no_control_characters(tmp_path: Path) -> None:
    done = forked("train", write_recipe(tmp_path), cwd=tmp_path)
    assert done.code == 0 and done.stderr == ""
    assert all(each.isprintable() or each == "\n" for each in done.stdout)
    lines = [line for line in done.stdout.splitlines() if line.startswith("step ")]
    started = [line for line in lines if "loss" in line]
    assert lines[: len(started)] == started, "the warm start comes first"
    steps = lines[len(started) :]
    assert [line.split()[1] for line in steps] == ["1", "2"]
    assert all("entropy" in line for line in steps)


def test_what_is_secret_is_in_no_file_of_a_run_and_nothing_listens(tmp_path: Path) -> None:
    secrets = {"OPENAI_API_KEY": "sk-c4n4ry", "HF_TOKEN": "hf-c4n4ry", "AWS_SECRET_ACCESS_KEY": "aws-c4n4ry"}
    env = {"id": "cli_envs:Odd", "held_out": 4, "options": {"api_key": "env-c4n4ry"}}
    engine = {"slots": 16, "args": ["--hf-token=arg-c4n4ry", "--api-key", "key-c4n4ry"]}
    done = forked("train", write_recipe(tmp_path, env=env, engine=engine), cwd=tmp_path, env=secrets)
    assert done.code == 0, done.stderr
    run = tmp_path / "runs" / "tiny"
    texts = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert len(texts) > 10
    assert [path for path, text in texts.items() if b"c4n4ry" in text] == []
    assert "c4n4ry" not in done.stdout + done.stderr
    with closing(sqlite3.connect(run / "run.sqlite")) as db:
        episodes = [row[0] for row in db.execute("SELECT episode FROM episodes")]
    assert len(episodes) > 40 and all("listening: []" in episode for episode in episodes)
    assert forked("train", tmp_path / "tiny.yaml", "--resume", cwd=tmp_path, env=secrets).code == 0


def test_a_finished_run_resumes_to_the_same_summary(tiny_run: TinyRun, own_run: Path) -> None:
    again = found(forked("train", tiny_run.recipe, "--resume", "--json", cwd=own_run))
    first = found(tiny_run.done)
    assert again["evaluations"] == first["evaluations"] and again["train"] == first["train"]


def test_every_stored_step_replays_the_same(tiny_run: TinyRun) -> None:
    updates = found(forked("replay", tiny_run.folder, "--json", cwd=tiny_run.cwd))["updates"]
    assert [(line["step"], line["update"], line["same"]) for line in updates] == [(1, 0, True), (2, 0, True)]


def test_an_altered_reward_does_not_replay(own_run: Path) -> None:
    with closing(sqlite3.connect(own_run / "runs" / "tiny" / "run.sqlite")) as db, db:
        changed = db.execute(
            "UPDATE episodes SET outcome = json_set(outcome, '$.reward', 0.25)"
            " WHERE (split, epoch, task_id, sample) = (SELECT split, epoch, task_id, sample FROM episodes"
            " WHERE split = 'train' AND version = 1 LIMIT 1)"
        )
        assert changed.rowcount == 1
    done = forked("replay", own_run / "runs" / "tiny", cwd=own_run)
    assert done.code == 1 and "DIFFERS" in done.stdout
    assert "step 2: " in done.stdout and "step 1: " not in done.stdout
    assert forked("replay", own_run / "runs" / "tiny", "--step", "1", cwd=own_run).code == 0


def test_an_evaluation_of_the_trained_policy_is_kept_and_not_played_twice(own_run: Path) -> None:
    arguments = ("eval", "tiny.yaml", "--policy", "runs/tiny/policy", "--samples", "2", "--json")
    first = found(forked(*arguments, cwd=own_run))
    assert first["num_episodes"] == 8 and first["outcomes"] == {"scored": 8}
    assert found(forked(*arguments, cwd=own_run)) == first
    run = own_run / "runs" / "tiny.eval" / "run.sqlite"
    with closing(sqlite3.connect(run)) as db:
        assert db.execute("SELECT count(*) FROM episodes").fetchone() == (8,)


def test_an_evaluation_does_not_go_on_with_another_policy(own_run: Path) -> None:
    assert palaestra("eval", "tiny.yaml", "--policy", "oracle", cwd=own_run).code == 0
    for change in ("seed=1", "evaluation.temperature=0", "engine.max_context=32"):
        done = forked("eval", "tiny.yaml", "--policy", "oracle", "--set", change, cwd=own_run)
        assert done.code == 2 and "--name eval" in done.stderr and "another name" in done.stderr


def test_runs_and_evaluations_do_not_take_each_others_folder(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    assert forked("eval", recipe, "--policy", "oracle", "--name", "a", cwd=tmp_path).code == 0
    done = forked("train", recipe, "--set", "name=tiny.a", cwd=tmp_path)
    assert done.code == 2 and "runs/tiny.a holds an evaluation" in done.stderr
    (tmp_path / "runs" / "tiny.b").mkdir()
    (tmp_path / "runs" / "tiny.b" / "recipe.yaml").write_text("name: tiny.b")
    done = forked("eval", recipe, "--policy", "oracle", "--name", "b", cwd=tmp_path)
    assert done.code == 2 and "runs/tiny.b holds a training run" in done.stderr


@contextmanager
def refusing() -> Generator[int, None, None]:
    """The port of a server that refuses every question for good; one that is away would be asked again."""

    class Refusal(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_error(400)

        def log_message(self, format: str, *args: Any) -> None:
            """Nobody wants to read it."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Refusal) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def test_what_an_evaluation_was_asked_is_kept_without_a_password(tmp_path: Path) -> None:
    sets = ("--set", "grpo.max_attempts=1", "--set", "env.held_out=1")
    with refusing() as port:
        endpoint = ("--policy", f"http://me:c4n4ry@127.0.0.1:{port}/v1", "--model-name", "x")
        done = forked("eval", write_recipe(tmp_path), *endpoint, *sets, cwd=tmp_path)
    assert done.code == 1
    with closing(sqlite3.connect(tmp_path / "runs" / "tiny.eval" / "run.sqlite")) as db:
        ((question,),) = db.execute("SELECT value FROM meta WHERE key = 'question'")
    assert f"http://[redacted]@127.0.0.1:{port}/v1" in question and "c4n4ry" not in question


@pytest.mark.parametrize(
    "arguments", ["eval tiny.yaml --policy oracle", "play tiny.yaml", "check env cli_envs:Chatty --tasks 2"]
)
def test_what_an_environment_prints_is_not_among_the_json(tmp_path: Path, arguments: str) -> None:
    write_recipe(tmp_path, env={"id": "cli_envs:Chatty", "held_out": 4})
    done = palaestra(*arguments.split(), "--json", cwd=tmp_path)
    assert json.loads(done.stdout) and done.stderr.count("debug") >= 2


def test_an_evaluation_in_which_nothing_ends_says_where_it_waits(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, env={"id": "cli_envs:Slow", "held_out": 4}, engine={"stuck_after_s": 0.1})
    done = forked("eval", recipe, "--policy", "oracle", cwd=tmp_path)
    assert done.code == 0 and re.search(r"no episode has ended for \d s; in flight: 4 in step", done.stdout)


def test_a_run_goes_on_when_nobody_reads_its_output_any_more(tmp_path: Path) -> None:
    done = forked("train", write_recipe(tmp_path), cwd=tmp_path, first=leave_as_reader)
    assert done.code == 0 and "nobody reads standard output any more" in done.stderr
    assert "step 2 " in done.stderr and (tmp_path / "runs" / "tiny" / "summary.json").is_file()


def test_a_terminal_without_the_characters_gets_others(tiny_run: TinyRun) -> None:
    done = palaestra("play", "tiny.yaml", cwd=tiny_run.cwd, env={"PYTHONIOENCODING": "ascii"})
    assert done.code == 0 and done.stdout.isascii() and "user \\u2502 " in done.stdout, done


def test_json_has_null_where_there_is_no_finite_number(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"loss": float("nan"), "nested": [{"x": float("inf")}, (1.5, "nan")]})
    assert capsys.readouterr().out == '{"loss": null, "nested": [{"x": null}, [1.5, "nan"]]}\n'


def test_a_run_with_an_adapter_leaves_a_policy_that_plays(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, lora={"rank": 2}, warm_start=None)
    assert forked("train", recipe, cwd=tmp_path).code == 0
    assert (tmp_path / "runs" / "tiny" / "policy" / "adapter_config.json").is_file()
    played = found(forked("play", recipe, "--policy", "runs/tiny/policy", "--json", cwd=tmp_path))
    assert played["outcome"]["kind"] == "scored" and played["graph"]["segments"]


def test_an_episode_is_shown_message_by_message(tiny_run: TinyRun) -> None:
    done = palaestra("play", "tiny.yaml", "--task", "1", cwd=tiny_run.cwd)
    assert done.code == 0, done.stderr
    roles = [line.split()[0] for line in done.stdout.splitlines() if "│" in line]
    assert roles == ["user", "assistant", "user"]
    assert "assistant │ odd" in done.stdout and "done after 1 turns" in done.stdout


def test_an_endpoint_that_is_down_is_a_failure_and_no_grade(tiny_run: TinyRun) -> None:
    endpoint = ("--policy", "http://127.0.0.1:1/v1", "--model-name", "x", "--set", "env.budget.wall_s=0.5")
    done = palaestra("play", "tiny.yaml", *endpoint, "--json", cwd=tiny_run.cwd)
    assert done.code == 1
    assert json.loads(done.stdout)["outcome"]["kind"] == "failed"


def test_checks_say_what_holds_and_a_failed_one_is_exit_code_1(tiny_run: TinyRun) -> None:
    good = found(palaestra("check", "env", "cli_envs:Odd", "--tasks", "2", "--json", cwd=tiny_run.cwd))
    assert good["passed"] and all(check["passed"] for check in good["checks"])
    done = palaestra("check", "env", "cli_envs:NoOracle", "--tasks", "2", cwd=tiny_run.cwd)
    assert done.code == 1 and "FAILED" in done.stdout and "has no oracle" in done.stdout


def test_a_recipe_is_checked_without_running_it(tiny_run: TinyRun, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    assert found(palaestra("check", "recipe", recipe, "--json", cwd=tmp_path))["passed"]
    planned = found(palaestra("train", recipe, "--dry-run", "--json", cwd=tmp_path))
    assert planned["plan"]["episodes"] == 32 and planned["plan"]["train_tasks"] == 20
    assert planned["plan"]["optimizer_updates"] == 2 and planned["plan"]["max_micro_batches_per_update"] == 1
    assert planned["recipe"]["grpo"]["steps"] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]


def test_a_sandbox_tier_is_proven_and_measured(tmp_path: Path) -> None:
    done = palaestra("check", "sandbox", "--json", cwd=tmp_path)
    report = json.loads(done.stdout)
    if done.code == 1:
        pytest.skip(f"no tier holds here: {report['checks']}")
    assert report["passed"] and 0 < report["p50_s"] <= report["p95_s"] < 5 and report["per_s"] > 0
    assert set(report["limits"]) == {"memory", "pids", "disk", "cpus", "network"}
    assert all(report["limits"].values()) and "rows" not in report


def test_a_full_check_shows_its_rows_and_fails_with_one_of_them(tmp_path: Path) -> None:
    arguments = ("check", "sandbox", "--backend", "namespaces", "--full", "--json")
    done = forked(*arguments, cwd=tmp_path, first=two_rows)
    report = json.loads(done.stdout)
    if "rows" not in report:
        pytest.skip(f"no namespaces tier here: {report['checks']}")
    assert done.code == 1 and not report["passed"]
    assert [(row["row"], row["verdict"]) for row in report["rows"]] == [(15, "held"), (16, "broken")]
    assert [check["passed"] for check in report["checks"][-2:]] == [True, False]
    assert "a wall of paper" in report["checks"][-1]["detail"]
    assert "row 15 held" in done.stderr and "row 16 broken" in done.stderr


@pytest.mark.parametrize("lora", [None, {"rank": 2}])
def test_engine_and_learner_are_compared(tmp_path: Path, lora: dict[str, int] | None) -> None:
    recipe = load_recipe(write_recipe(tmp_path, lora=lora))
    report = run_async(compare_engine(recipe, None, Silent()))
    assert report.kind == "local" and report.max_context == 64 and report.is_repeatable
    assert 0 <= report.mean_drift <= report.drift <= report.bound.largest == 1e-3 and report.is_close
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]


def test_the_engine_is_checked_on_a_model_folder(tiny_run: TinyRun) -> None:
    arguments = ("check", "engine", "tiny.yaml", "--model", "runs/tiny/policy", "--json")
    report = found(forked(*arguments, cwd=tiny_run.cwd))
    assert report["passed"] and report["drift"] <= report["bound"]


def test_the_console_script_is_installed() -> None:
    script = Path(sys.executable).with_name("palaestra")
    assert script.is_file()


def test_help_names_every_command(tmp_path: Path) -> None:
    done = palaestra("--help", cwd=tmp_path)
    assert done.code == 0
    assert all(name in done.stdout for name in ("train", "eval", "play", "replay", "check"))


def test_a_run_is_as_long_as_its_epochs_and_evaluated_as_it_was_told(tmp_path: Path) -> None:
    recipe = write_recipe(
        tmp_path,
        grpo={"steps": 9, "epochs": 0.5, "tasks_per_step": 4, "group_size": 2},
        evaluation={
            "at_start": False,
            "max_tokens": 2,
            "samples": 3,
            "pass_at": [3],
            "success_threshold": 1e-3,
        },
    )
    summary = found(forked("train", recipe, "--json", cwd=tmp_path))
    assert summary["steps"] == 3  # of 4 tasks each: 10 of the 20 are half an epoch
    assert list(summary["evaluations"]) == ["final"]
    assert list(summary["evaluations"]["final"]["pass_at"]) == ["1", "3"]
    with Ledger(tmp_path / "runs" / "tiny", read_only=True) as ledger:
        longest = {
            split: max(
                len(call.completion_ids)
                for each in ledger.trajectories(split)
                for segment in each.graph.segments
                for call in segment.calls
            )
            for split in ("train", "final")
        }
    assert longest["final"] == 2 < longest["train"]


def test_tasks_that_are_not_shuffled_are_played_in_their_order_pass_after_pass(tmp_path: Path) -> None:
    recipe = write_recipe(
        tmp_path,
        env={"id": "cli_envs:Odd", "tasks": {"size": 10}, "held_out": 4},
        grpo={"steps": 3, "tasks_per_step": 4, "group_size": 2, "shuffle_tasks": False},
        evaluation={"at_start": False},
    )
    found(forked("train", recipe, "--json", cwd=tmp_path))
    with Ledger(tmp_path / "runs" / "tiny", read_only=True) as ledger:
        steps = [ledger.step(number) for number in (1, 2, 3)]
        held_out = {each.key.task_id for each in ledger.trajectories("final")}
    played = [
        (group[0][1], int(group[0][0])) for step in steps if step is not None for group in step["groups"]
    ]
    in_order = [number for number in range(10) if str(number) not in held_out]
    assert played == [(epoch, number) for epoch in (0, 1) for number in in_order]
