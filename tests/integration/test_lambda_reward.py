"""Unmodified `lambda_handler` functions grade in a worker and in a sandbox."""

import asyncio
import os
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import yaml
from rewards import BEDROCK, SAGEMAKER, TASK, episode, grade, reasons, rewards, write
from support import require, run_async

from palaestra.envs import Scored
from palaestra.envs.graders import LambdaReward, grade_episode, load_reward
from palaestra.envs.worker import Worker
from palaestra.sandboxes import SandboxSpec, SandboxUnavailable
from palaestra.trainer.arena import Arena
from palaestra.trainer.preflight import preflight
from palaestra.trainer.recipe_file import load_recipe

HANGS = "import time\n" + SAGEMAKER.replace("rows = []", "rows = []\n    time.sleep(60)")
FRAGILE = SAGEMAKER.replace("rows = []", "rows = []\n    assert 'boom' not in json.dumps(event), 'too loud'")


@pytest.fixture(autouse=True)
def no_worker_stays() -> Generator[None, None, None]:
    yield
    Worker.end_idle()


@pytest.mark.parametrize("where", ["worker", "sandbox"])
@pytest.mark.parametrize("code", [BEDROCK, SAGEMAKER], ids=["bedrock", "sagemaker"])
def test_a_file_grades_a_batch_and_prints_nothing(
    tmp_path: Path, where: str, code: str, capfd: pytest.CaptureFixture[str]
) -> None:
    reward = load_reward(str(write(tmp_path, code)), where=where)
    assert rewards(grade(reward, "4", "5", "4")) == [1.0, 0.0, 1.0]
    assert capfd.readouterr() == ("", "")


def test_metrics_are_components_and_the_episodes_shared_a_call(tmp_path: Path) -> None:
    outcomes = grade(load_reward(str(write(tmp_path, BEDROCK))), "4", "5")
    assert [found.components for found in outcomes if isinstance(found, Scored)] == [
        {"accuracy": 1.0, "batch": 2.0},
        {"accuracy": 0.0, "batch": 2.0},
    ]


@pytest.mark.parametrize("backend", ["auto", pytest.param("docker", marks=pytest.mark.docker)])
def test_a_recipe_says_in_which_sandbox_the_function_runs(tmp_path: Path, backend: str) -> None:
    if backend == "docker":
        require("docker")
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "reference_answer": "4"}\n' * 2)
    code = "import os\n" + SAGEMAKER.replace("float(right)", "float(os.environ['WORTH'])")
    code = code.replace('["answer"]', "").replace(
        "rows = []", "rows, big = [], bytearray(int(os.environ['SIZE']))"
    )
    sandbox = {"backend": backend, "memory_mb": 64, "env": {"WORTH": "0.25", "SIZE": "1000"}}
    path = tmp_path / "recipe.yaml"

    def arena(sandbox: dict[str, Any]) -> Arena:
        reward = {"function": str(write(tmp_path, code)), "where": "sandbox", "sandbox": sandbox}
        rows = {"path": str(tmp_path / "rows.jsonl"), "held_out": 1}
        path.write_text(yaml.safe_dump({"data": rows, "reward": reward, "model": {"tiny": {}}}))
        return run_async(preflight(load_recipe(path), trains=False))

    grader = arena(sandbox).env.grader
    assert isinstance(grader, LambdaReward) and rewards(grade(grader, "4")) == [0.25]
    over = arena(sandbox | {"env": {"WORTH": "1", "SIZE": str(1 << 28)}}).env.grader
    assert isinstance(over, LambdaReward) and "ended in its sandbox without a reply" in reasons(
        grade(over, "4")
    )


@pytest.mark.docker
def test_a_sandbox_that_is_not_there_is_found_before_a_run(tmp_path: Path) -> None:
    require("docker")
    spec = SandboxSpec(backend="docker", image="no-such-image:1")
    reward = LambdaReward(str(write(tmp_path, SAGEMAKER)), where="sandbox", sandbox=spec)
    with pytest.raises(SandboxUnavailable, match="no-such-image:1"):
        run_async(reward.check())


@pytest.mark.parametrize("where", ["worker", "sandbox"])
def test_a_module_beside_the_file_can_be_imported(tmp_path: Path, where: str) -> None:
    write(tmp_path, "WORTH = 0.25\n", "worth.py")
    code = "from worth import WORTH\n" + SAGEMAKER.replace("float(right)", "WORTH * right")
    assert rewards(grade(load_reward(str(write(tmp_path, code)), where=where), "4")) == [0.25]


@pytest.mark.parametrize("where", ["worker", "sandbox"])
def test_a_function_that_hangs_is_killed_and_gives_no_number(tmp_path: Path, where: str) -> None:
    reward = load_reward(str(write(tmp_path, HANGS)), where=where, timeout_s=1.0)
    started = time.monotonic()
    allowed = "1 s;" if where == "worker" else "1 s and the 5 s that its sandbox gets to start it;"
    assert f"no reply within {allowed}" in reasons(grade(reward, "4"))
    assert time.monotonic() - started < 30


def test_a_grade_that_nobody_waits_for_ends_its_process(tmp_path: Path) -> None:
    started = tmp_path / "started"
    code = f"import os\nos.symlink(str(os.getpid()), {str(started)!r})\n{HANGS}"
    reward = load_reward(str(write(tmp_path, code)))

    async def main() -> None:
        grading = asyncio.create_task(grade_episode(reward, TASK, episode("4")))
        await asyncio.to_thread(wait_until_exists, started)
        grading.cancel()
        await asyncio.gather(grading, return_exceptions=True)

    run_async(main())
    assert not Path("/proc", os.readlink(started)).exists()


def wait_until_exists(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.is_symlink():
        assert time.monotonic() < deadline, f"nobody made {path}"
        time.sleep(0.01)


@pytest.mark.parametrize("where", ["worker", "sandbox"])
@pytest.mark.parametrize(
    ("code", "word"),
    [
        ("def lambda_handler(event, context):\n    return 1 / 0", "ZeroDivisionError"),
        ("def lambda_handler(event, context):\n    print('so far')\n    raise SystemExit(3)", "so far"),
        (
            "def lambda_handler(event, context):\n    raise KeyboardInterrupt('stop')",
            "KeyboardInterrupt: stop",
        ),
        ("raise KeyboardInterrupt('stop')", "KeyboardInterrupt: stop"),
        ("import os\ndef lambda_handler(event, context):\n    os._exit(3)", "lambda_function.py"),
        ("def lambda_handler(event, context):\n    return {1, 2}", "no JSON form"),
        ("def lambda_handler(event, context):\n    return [{'id': 'x'}]", "no row for the id 't:0'"),
        ("def lambda_handler(event, context):\n    return 'nonsense'", "must be a list"),
        (SAGEMAKER.replace("float(right)", "float('nan')"), "finite number"),
        (SAGEMAKER.replace("json.dumps(rows)", "'[{'"), "not JSON"),
    ],
)
def test_a_function_that_breaks_or_makes_no_sense_gives_no_number(
    tmp_path: Path, where: str, code: str, word: str, capfd: pytest.CaptureFixture[str]
) -> None:
    reward = load_reward(f"{write(tmp_path, code)}:lambda_handler", where=where)
    assert word in reasons(grade(reward, "4"))
    assert capfd.readouterr() == ("", "")


def test_one_answer_that_breaks_the_function_leaves_the_others_their_grades(tmp_path: Path) -> None:
    outcomes = grade(load_reward(str(write(tmp_path, FRAGILE))), "4", "boom", "5")
    assert rewards(outcomes) == [1.0, None, 0.0]
    assert "too loud" in reasons(outcomes[1:2]) and "lambda_function.py, line" in reasons(outcomes[1:2])


def test_a_function_that_reads_one_sample_only_is_told_apart(tmp_path: Path) -> None:
    path = write(tmp_path, SAGEMAKER.replace("in event:", "in event[:1]:"))
    outcomes = grade(load_reward(str(path)), "4", "5")
    assert rewards(outcomes) == [1.0, None] and "set batch to 1" in reasons(outcomes[1:])
    assert rewards(grade(load_reward(str(path), batch=1), "4", "5")) == [1.0, 0.0]


def test_a_sandboxed_function_reads_no_file_of_the_host(tmp_path: Path) -> None:
    secret = write(tmp_path, "hidden", "secret.txt")
    code = f"def lambda_handler(event, context):\n    return open({str(secret)!r}).read()"
    reward = load_reward(str(write(tmp_path, code)), where="sandbox")
    assert "FileNotFoundError" in reasons(grade(reward, "4"))


def test_a_file_that_cannot_be_loaded_is_found_before_a_run(tmp_path: Path) -> None:
    for code, word in (("import nowhere", "nowhere"), ("lambda_handler = 3", "cannot be called")):
        reward = LambdaReward(str(write(tmp_path, code)))
        with pytest.raises(Exception, match=word):
            run_async(reward.check())
