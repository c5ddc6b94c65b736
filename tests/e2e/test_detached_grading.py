"""Detached grading as a user has it: recipes, kill -9, workers that die, and nothing graded twice."""

import asyncio
import json
import shutil
import signal
import sys
from pathlib import Path

import pytest
from command import TinyRun, forked, write_recipe
from grade_service import GradeService
from graded_rooms import rows, start_eval
from lambda_service import ARN, LambdaService
from support import run_async

DONE = {"scores": [{"reward": 1.0, "evidence": "after 25 minutes"}]}


def test_a_killed_driver_a_dead_worker_and_a_duplicate_callback_make_one_score(tmp_path: Path) -> None:
    """A grader of 25 minutes, which are over when the test says so: at minute 10 the driver is killed, at
    minute 15 the worker; the second worker is done at minute 40, and says so twice."""

    async def main() -> None:
        log = tmp_path / "log"
        async with GradeService() as service:
            grading = {"kind": "http", "url": service.url, "callback": True, "heartbeat_s": 1.5, "retry_s": 0}
            env = {"id": "cli_envs:NeverGraded", "held_out": 1}
            recipe = write_recipe(tmp_path, env=env, grading=grading)
            driver = start_eval(recipe)
            first = await service.taken(0)
            run = tmp_path / "runs" / "tiny.eval"
            while not await asyncio.to_thread(rows, run, "SELECT 1 FROM grade_jobs WHERE handle IS NOT NULL"):  # noqa: ASYNC110  # another process writes it
                await asyncio.sleep(0.02)
            driver.send_signal(signal.SIGKILL)  # minute 10
            assert driver.wait() == -signal.SIGKILL
            polls = first.num_polls
            assert rows(run, "SELECT state FROM episodes") == [("played",)]

            driver = start_eval(recipe)
            while first.num_polls == polls:  # noqa: ASYNC110  # another process asks
                await asyncio.sleep(0.02)
            assert service.keys == [first.key], "resumed by its handle, not submitted again"
            first.is_alive = False  # minute 15
            second = await service.taken(1)
            assert second.asked["id"] == first.asked["id"] and second.asked["attempt"] == 1
            assert await service.call_back(second, DONE) == (200, {"fate": "kept"})  # minute 40
            status, said = await service.call_back(second, DONE)
            assert (status, said["fate"]) == (200, "duplicate")
            assert await asyncio.to_thread(driver.wait, 100) == 0, log.read_text()
        assert rows(run, "SELECT state, reward FROM episodes") == [("scored", 1.0)]
        assert rows(run, "SELECT state, attempt FROM grade_jobs") == [("done", 1)]
        fates = rows(run, "SELECT fate FROM grade_results ORDER BY at")
        assert fates == [("broken",), ("kept",), ("duplicate",)]

    run_async(main())


JUDGE = """
import json, sys, time
number = int(json.load(sys.stdin)["task"]["id"]) % 5
if number == 0:
    sys.exit("out of memory")
if number == 1:
    time.sleep(60)
print('{"scores": [{"reward": NaN}]}' if number == 2 else '{"scores": [{"reward": 0.5}]}')
"""


def test_what_a_grader_cannot_tell_is_a_number_nowhere(tmp_path: Path, tiny_run: TinyRun) -> None:
    """Of five tasks one crashes the grader, one hangs it, one gets NaN: in run file, evaluation and step."""
    recipe = write_recipe(
        tmp_path,
        env={"id": "cli_envs:NeverGraded", "held_out": 5, "tasks": {"size": 10}},
        model={"path": str(tiny_run.folder / "model"), "tool_format": "none"},
        warm_start=None,
        grpo={"tasks_per_step": 5, "group_size": 2, "steps": 1},
        grading={
            "kind": "subprocess",
            "command": [sys.executable, "-c", JUDGE],
            "attempt_s": 5,
            "max_attempts": 1,
            "poll_s": 0.05,
        },
    )
    done = forked("train", recipe, "--json", cwd=tmp_path)
    assert done.code == 0, done.stderr
    run = tmp_path / "runs" / "tiny"
    found = rows(run, "SELECT cast(task_id AS INTEGER) % 5, state, reward, outcome FROM episodes")
    assert {number for number, *_ in found} == set(range(5))
    for number, state, reward, outcome in found:
        assert (state, reward) == (("ungraded", None) if number < 3 else ("scored", 0.5))
        why = {0: "crash: exit code 1: out of memory", 1: "timeout: the grader took over 5", 2: "nonsense"}
        assert why.get(number, '"kind":"scored"') in outcome
    (step,) = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    num_bad = sum(1 for number, *_ in found if number < 3)
    assert step["reward"] == step["reward_min"] == 0.5
    assert step["ungraded"] == step["rejected_ungraded"] and step["ungraded"] + step["scored"] == 10
    evaluations = json.loads(done.stdout)["evaluations"]
    counted = [each["outcomes"].get("ungraded", 0) for each in evaluations.values()]
    assert sum(counted) + step["ungraded"] == num_bad > 0
    for each in evaluations.values():
        if each["outcomes"].get("scored"):
            assert each["reward"]["value"] == 0.5
            missing = each["outcomes"].get("ungraded", 0) / 5
            assert each["bounds"] == [0.5 * (1 - missing), 0.5 * (1 - missing) + missing]


LAMBDA = """
import json, os
from urllib.request import Request, urlopen

def lambda_handler(event, context):
    said = event["episodes"][0]["messages"][-1]["content"]
    answer = {"scores": [{"reward": 0.5, "components": {"letters": len(said)}}]}
    urlopen(Request(event["answer_at"], json.dumps(answer).encode(), method="PUT"))
"""


def test_a_recipe_names_a_function_on_lambda_that_grades(tmp_path: Path) -> None:
    pytest.importorskip("boto3")
    (tmp_path / "function.py").write_text(LAMBDA)

    async def main() -> None:
        async with LambdaService(tmp_path / "function.py") as service:
            service.gate.set()
            places = {"answers": f"{service.url}/grades", "endpoint_url": service.url}
            recipe = write_recipe(
                tmp_path,
                env={"id": "cli_envs:NeverGraded", "held_out": 4},
                grading={"kind": "lambda", "function": ARN, "poll_s": 0.1, **places},
            )
            keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
            arguments = ("eval", recipe, "--policy", "oracle", "--json")
            done = await asyncio.to_thread(forked, *arguments, cwd=tmp_path, env=keys)
            assert done.code == 0, done.stderr
            found = json.loads(done.stdout)
            assert found["reward"]["value"] == 0.5 and found["components"]["letters"] > 0
            assert len(service.events) == len(service.objects) == 4

    run_async(main())


def test_an_evaluation_is_graded_again_and_stays_as_it_is(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, env={"id": "cli_envs:NeverGraded", "held_out": 4})
    assert forked("eval", recipe, "--policy", "oracle", cwd=tmp_path).code == 1
    run = tmp_path / "runs" / "tiny.eval"
    before = (run / "run.sqlite").read_bytes()
    arguments = ("grade", run, "--grader", "graded_envs:Loud", "--json")
    env = {"GRADED_ENVS": "well"}
    done = forked(*arguments, cwd=tmp_path, env=env)
    assert done.code == 0, done.stderr
    found = json.loads(done.stdout)["eval"]
    assert found["before"]["reward"] is None and found["before"]["outcomes"] == {"ungraded": 4}
    assert found["after"]["reward"]["value"] == 1.0 and found["num_changed"] == 4
    assert (run / "run.sqlite").read_bytes() == before
    again = forked(*arguments, cwd=tmp_path, env={"GRADED_ENVS": "broken"})
    assert json.loads(again.stdout)["eval"] == found, "what is graded is not graded again"
    other = forked("grade", run, cwd=tmp_path)
    assert other.code == 2 and "another grader; choose another name" in other.stderr
    assert forked("grade", run, "--name", "own", cwd=tmp_path).code == 1, "its own grader cannot tell"


SCORE = "def score(completion: str) -> float:\n    return {reward}\n"


def test_grades_go_on_only_under_the_same_grader_and_tasks(tmp_path: Path) -> None:
    rows_of = [
        {"messages": [{"role": "user", "content": f"say {n}"}], "reference_answer": "x"} for n in range(4)
    ]
    data = tmp_path / "train.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows_of))
    judge = tmp_path / "judge.py"
    judge.write_text(SCORE.format(reward=0.5))
    recipe = write_recipe(
        tmp_path, env=None, data={"path": str(data), "held_out": 2}, reward=f"{judge}:score", warm_start=None
    )
    assert forked("eval", recipe, "--policy", "oracle", cwd=tmp_path).code == 0
    run = tmp_path / "runs" / "tiny.eval"
    mine = ("grade", run, "--name", "mine", "--json", "--grader", "mine.py:score")
    refused = forked(*mine, cwd=tmp_path)
    assert refused.code == 2 and "there is no file mine.py" in refused.stderr
    assert not (run / "grade.mine").exists(), "a grading that did not begin takes no name"

    (tmp_path / "mine.py").write_text(SCORE.format(reward=0.25))
    done = forked(*mine, cwd=tmp_path)
    assert done.code == 0 and json.loads(done.stdout)["eval"]["after"]["reward"]["value"] == 0.25
    (tmp_path / "mine.py").write_text(SCORE.format(reward=0.75))
    stale = forked(*mine, cwd=tmp_path)
    assert stale.code == 2 and "mine.py has changed and is not what the grades in" in stale.stderr

    data.write_text(data.read_text().replace("say", "tell"))
    gone = forked("grade", run, "--name", "gone", cwd=tmp_path)
    assert gone.code == 2 and "2 tasks of the split eval are not among the recipe's any more" in gone.stderr


def test_the_steps_of_a_training_run_can_be_graded_too(tmp_path: Path, tiny_run: TinyRun) -> None:
    run = shutil.copytree(tiny_run.folder, tmp_path / "copy")
    done = forked("grade", run, "--json", cwd=tmp_path)
    assert done.code == 2 and "only step rewards; name a grader by --grader" in done.stderr
    arguments = ("grade", run, "--name", "loud", "--grader", "graded_envs:Loud", "--json")
    done = forked(*arguments, "--split", "train", cwd=tmp_path)
    assert done.code == 0, done.stderr
    found = json.loads(done.stdout)["train"]
    assert found["after"]["num_episodes"] == 32 and found["after"]["reward"]["value"] == 1.0
    done = forked(*arguments, "--split", "nothing", cwd=tmp_path)
    assert done.code == 2 and "it has demonstrations, baseline" in done.stderr
