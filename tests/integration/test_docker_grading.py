"""Grades in containers of the real engine: as a recipe asks for them, when they break, and after kill -9."""

import asyncio
import os
import signal
import time
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import pytest
from command import write_recipe
from docker_box import engine, owned_by, wait_until_gone, with_owner
from graded_rooms import QUICK, RANGE, TASK, graded, keep, key_of, rows, start_eval
from support import require, run_async

from palaestra.agents.grading.boxed import Boxed
from palaestra.agents.grading.stage import Grading
from palaestra.agents.ledger import Ledger
from palaestra.envs import Scored, Ungraded
from palaestra.sandboxes import SandboxSpec
from palaestra.sandboxes._docker.owner import owner_label
from palaestra.trainer.grading import make_adapter
from palaestra.trainer.recipe_file import load_recipe

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]
DOCKER = SandboxSpec(backend="docker", memory_mb=128)
JUDGE = """
import json, os, pathlib, socket, sys
asked = json.load(sys.stdin)
try:
    socket.create_connection(("192.0.2.1", 80), 1)
    reached = "somebody"
except OSError:
    reached = "nobody"
left = pathlib.Path("workspace/0/sample").read_text()
inside = pathlib.Path("/.dockerenv").exists()
evidence = f"{left} {asked['task']['reference']} {reached} {os.environ['MOOD']} {inside}"
print(json.dumps({"scores": [{"reward": 0.25, "components": {"judged": 1.0}, "evidence": evidence}]}))
"""


@pytest.fixture(autouse=True)
def nothing_is_left() -> Generator[None, None, None]:
    """No container of this process stays behind."""
    require("docker")
    yield
    assert owned_by(os.getpid()) == {}


def test_a_recipe_has_its_grades_made_in_containers(tmp_path: Path) -> None:
    judge, path = tmp_path / "judge.py", tmp_path / "recipe.yaml"
    judge.write_text(JUDGE)
    path.write_text(
        "{env: {id: arithmetic}, grading: {kind: sandbox, command: [python3, judge.py], "
        f"files: [{judge}], sandbox: {{backend: docker, env: {{MOOD: strict}}}}}}}}"
    )
    recipe = load_recipe(path)
    assert recipe.grading is not None
    (tmp_path / "run").mkdir()
    with Ledger(tmp_path / "run") as ledger:
        adapter = make_adapter(recipe, recipe.grading, None, ledger, tmp_path)
    assert isinstance(adapter, Boxed)
    evidence = "0 the-reference nobody strict True"
    assert graded(adapter, tmp_path) == Scored(reward=0.25, components={"judged": 1.0}, evidence=evidence)


@pytest.mark.parametrize(
    ("code", "spec", "why"),
    [
        ("import time; time.sleep(60)", DOCKER, "timeout: the grader took over 1 s"),
        ("print(1 / 0)", DOCKER, "ZeroDivisionError"),
        ("print('yes')", DOCKER, "nonsense"),
        ("x = bytearray(1 << 30)", DOCKER, "crash: "),
        ("import os\nwhile os.fork() or True: pass", replace(DOCKER, pids=16), "crash: "),
        ("print('x' * (1 << 25))", DOCKER, "nonsense"),
        ("1", replace(DOCKER, image="no-such-image:1"), "no-such-image:1"),
    ],
)
def test_a_container_that_breaks_gives_no_number(
    code: str, spec: SandboxSpec, why: str, tmp_path: Path
) -> None:
    limits = replace(QUICK, max_attempts=1, attempt_s=1.0 if "sleep" in code else 30.0, total_s=30.0)
    found = graded(Boxed(["python3", "-c", code], spec), tmp_path, limits)
    assert isinstance(found, Ungraded) and why in found.reason


def test_jobs_have_a_container_each_and_no_more_at_a_time_than_allowed(tmp_path: Path) -> None:
    code = "import json, time; time.sleep(0.3); print(json.dumps({'scores': [{'reward': 0.5}]}))"

    async def main() -> None:
        most, keys = 0, [key_of(sample=number) for number in range(6)]
        with Ledger(tmp_path) as ledger:
            keep(ledger, *keys)
            limits = replace(QUICK, max_outstanding=3)
            adapter = Boxed(["python3", "-c", code], DOCKER)
            async with Grading(ledger, adapter, limits, reward_range=RANGE) as grading:
                grades = asyncio.gather(*(grading.grade([key], TASK) for key in keys))
                while not grades.done():
                    most = max(most, len(await asyncio.to_thread(owned_by, os.getpid())))
                    await asyncio.sleep(0.02)
                await grades
            assert ledger.counts("train") == {"scored": 6}
        assert 1 < most <= 3

    run_async(main())


def test_a_grade_that_is_given_up_takes_its_container_down(tmp_path: Path) -> None:
    async def main() -> None:
        with Ledger(tmp_path) as ledger:
            keep(ledger, key_of())
            adapter = Boxed(["python3", "-c", "import time; time.sleep(600)"], DOCKER)
            async with Grading(ledger, adapter, QUICK, reward_range=RANGE) as grading:
                waiting = asyncio.create_task(grading.grade([key_of()], TASK))
                async with asyncio.timeout(60):
                    while "running" not in (await asyncio.to_thread(owned_by, os.getpid())).values():  # noqa: ASYNC110  # the engine tells nobody
                        await asyncio.sleep(0.02)
                grading.give_up([key_of()], "late: too late", is_late=True)
                await waiting
                async with asyncio.timeout(60):
                    while await asyncio.to_thread(owned_by, os.getpid()):  # noqa: ASYNC110
                        await asyncio.sleep(0.02)
            found = ledger.finished(key_of())
            assert found is not None and found.outcome == Ungraded(reason="late: too late", is_late=True)

    run_async(main())


def test_after_kill_9_the_containers_go_and_each_grade_is_made_once(tmp_path: Path) -> None:
    judge = tmp_path / "judge.py"
    judge.write_text('import time\ntime.sleep(2)\nprint(\'{"scores": [{"reward": 0.5}]}\')\n')
    grading = {"kind": "sandbox", "command": ["python3", "judge.py"], "files": [str(judge)]}
    sandbox = {"backend": "docker", "memory_mb": 64}
    env = {"id": "cli_envs:NeverGraded", "held_out": 3}
    recipe = write_recipe(tmp_path, env=env, grading=grading | {"sandbox": sandbox, "retry_s": 0.0})
    run, driver = tmp_path / "runs" / "tiny.eval", start_eval(recipe)
    until = time.monotonic() + 120
    while list(owned_by(driver.pid).values()).count("running") < 3:
        assert driver.poll() is None and time.monotonic() < until, (tmp_path / "log").read_text()
        time.sleep(0.02)
    owner = owner_label(driver.pid)
    driver.send_signal(signal.SIGKILL)
    assert driver.wait() == -signal.SIGKILL
    assert rows(run, "SELECT count(*) FROM grade_jobs WHERE state = 'open'") == [(3,)]
    wait_until_gone(owner)
    driver = start_eval(recipe)
    second = owner_label(driver.pid)
    assert driver.wait(120) == 0, (tmp_path / "log").read_text()
    assert rows(run, "SELECT state, reward FROM episodes") == [("scored", 0.5)] * 3
    assert rows(run, "SELECT state, attempt FROM grade_jobs") == [("done", 0)] * 3
    assert rows(run, "SELECT fate FROM grade_results") == [("kept",)] * 3
    assert with_owner(second) == {}


def test_an_image_of_ones_own_is_what_the_grader_runs_in(tmp_path: Path) -> None:
    """The base image under another name, as `docker import` or `docker build` leaves one."""
    with engine() as api:
        (base, *_) = [each for each in api.images() if "palaestra-base:bookworm" in (each["RepoTags"] or [])]
        made = api.create_container(base["Id"], ["true"])
        try:
            api.put_archive(made["Id"], "/opt", one_file("judge.py", tmp_path))
            api.commit(made["Id"], repository="palaestra-test-judge", tag="1")
        finally:
            api.remove_container(made["Id"], force=True)
        try:
            spec = SandboxSpec(backend="docker", image="palaestra-test-judge:1")
            found = graded(Boxed(["python3", "/opt/judge.py"], spec), tmp_path)
        finally:
            api.remove_image("palaestra-test-judge:1", force=True)
    assert found == Scored(reward=0.75)


def one_file(name: str, folder: Path) -> bytes:
    """A tar of a judge that pays 0.75 for everything."""
    import tarfile

    (folder / name).write_text('print(\'{"scores": [{"reward": 0.75}]}\')')
    with tarfile.open(folder / "one.tar", "w") as tar:
        tar.add(folder / name, name)
    return (folder / "one.tar").read_bytes()
