"""Where grades are made: programs that outlive the run, sandboxes, and services behind HTTP."""

import asyncio
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from graded_rooms import QUICK, TASK, graded, key_of, played
from processes import wait_until_gone
from support import require, run_async

from palaestra.agents.grading.boxed import Boxed
from palaestra.agents.grading.job import (
    Broken,
    GradeAdapter,
    GradeRequest,
    GraderRefused,
    Running,
    Verdicts,
)
from palaestra.agents.grading.program import Program, own_process
from palaestra.envs import Score, Scored, Task, Ungraded
from palaestra.sandboxes import SandboxSpec
from palaestra.sandboxes.errors import SandboxUnavailable

JUDGE = """
import json, sys
asked = json.load(sys.stdin)
(episode,) = asked["episodes"]
print(json.dumps({"scores": [{
    "reward": 0.5,
    "components": {"said": float(len(episode["messages"]))},
    "evidence": asked["task"]["reference"] + " " + str(episode["workspace"]["files"]),
}]}))
"""


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_a_program_reads_the_request_and_writes_the_score(tmp_path: Path) -> None:
    found = graded(Program(python(JUDGE), folder=tmp_path / "grading"), tmp_path)
    assert found == Scored(
        reward=0.5, components={"said": 4.0}, evidence="the-reference [['sample', 'MA==']]"
    )
    assert not list((tmp_path / "grading").iterdir())


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("raise SystemExit(3)", "crash: exit code 3"),
        ("import sys; sys.exit('the model is not there')", "crash: exit code 1: the model is not there"),
        ("print('about 0.7, I think')", "nonsense"),
        ('print(\'{"scores": [{"reward": NaN}]}\')', "nonsense: scores.0"),
        ('print(\'{"scores": [{"reward": true}]}\')', "nonsense: scores.0"),
        ('print(\'{"scores": [{"reward": 1, "bonus": 1}]}\')', "nonsense: scores.0"),
        ('print(\'{"scores": [{"reward": 1}, {"reward": 1}]}\')', "nonsense: 2 scores for 1 episodes"),
        ('print(\'{"status": "running"}\')', "nonsense: the grader has ended"),
        ('print(\'{"status": "failed", "error": "no key"}\')', "crash: no key"),
        ('print(\'{"scores": [{"ungraded": "torn page"}]}\')', "grader: torn page"),
        ("print('{}')", "nonsense: no `scores`"),
        ("import time; time.sleep(60)", "timeout: the grader took over 0.5 s"),
    ],
)
def test_a_program_that_breaks_or_makes_no_sense_gives_no_number(code: str, why: str, tmp_path: Path) -> None:
    limits = replace(QUICK, max_attempts=1, attempt_s=0.5 if "sleep" in code else 30.0)
    found = graded(Program(python(code), folder=tmp_path / "grading"), tmp_path, limits)
    assert isinstance(found, Ungraded) and why in found.reason


def test_a_program_that_is_not_there_is_not_tried_again(tmp_path: Path) -> None:
    found = graded(Program(["/nowhere/judge"], folder=tmp_path / "grading"), tmp_path)
    assert isinstance(found, Ungraded) and "cannot start /nowhere/judge" in found.reason


def test_tampering_that_a_program_reports_scores_the_floor(tmp_path: Path) -> None:
    code = 'print(\'{"scores": [{"tampered": "it wrote its own grade"}]}\')'
    found = graded(Program(python(code), folder=tmp_path / "grading"), tmp_path)
    assert found == Scored(reward=0.0, evidence="tampered: it wrote its own grade")


def request(attempt: int = 0, limit_s: float = 30.0) -> GradeRequest:
    return GradeRequest(
        job="job", attempt=attempt, task=TASK, episodes=(played(key_of()).episode,), limit_s=limit_s
    )


WAITING = """
import sys, time, pathlib
while not pathlib.Path(sys.argv[1]).exists():
    time.sleep(0.01)
print('{"scores": [{"reward": 1.0}]}')
"""


def test_a_program_goes_on_without_its_run_and_is_found_again(tmp_path: Path) -> None:
    """Two adapters of the same folder are what a restart is."""
    gate = tmp_path / "gate"

    async def main() -> None:
        argv = [*python(WAITING), str(gate)]
        first, second = (Program(argv, folder=tmp_path / "grading") for _ in range(2))
        await first.open(NoInbox())
        handle = await first.submit(request())
        assert await first.submit(request()) == handle, "the same key is the same try"
        await first.close()
        assert await second.submit(request()) == handle, "also from another process"
        assert isinstance(await second.poll(handle), Running)
        gate.touch()
        assert await answer(second, handle) == Verdicts(each=(Score(reward=1.0),))
        await second.release(handle)

    run_async(main())


def test_a_program_that_is_killed_is_lost_and_one_that_is_released_is_killed(tmp_path: Path) -> None:
    async def main() -> None:
        program = Program([*python(WAITING), str(tmp_path / "gate")], folder=tmp_path / "grading")
        await program.open(NoInbox())
        handle = await program.submit(request())
        pid = await written(Path(handle) / "pid")
        os.kill(pid, signal.SIGKILL)
        lost = await answer(program, handle)
        assert "lost: the grader's process died" in str(lost)
        await program.release(handle)
        other = await program.submit(request(attempt=1))
        group = await written(Path(other) / "pid")
        await program.release(other)
        wait_until_gone(group)
        assert not _read(Path(other) / "request")

    run_async(main())


@pytest.mark.parametrize("is_own_session", [False, True])
@pytest.mark.parametrize("end", ["answers", "hangs"])
def test_what_a_program_leaves_running_ends_with_it(end: str, is_own_session: bool, tmp_path: Path) -> None:
    code = f"""
import pathlib, subprocess, time
child = subprocess.Popen(["sleep", "600"], start_new_session={is_own_session})
pathlib.Path({str(tmp_path / "child")!r}).write_text(str(child.pid))
if {end!r} == "hangs":
    time.sleep(600)
print('{{"scores": [{{"reward": 1.0}}]}}')
"""
    limits = replace(QUICK, max_attempts=1, attempt_s=30.0 if end == "answers" else 1.0)
    found = graded(Program(python(code), folder=tmp_path / "grading"), tmp_path, limits)
    assert isinstance(found, Scored if end == "answers" else Ungraded)
    wait_until_gone(int((tmp_path / "child").read_text()))


def test_a_program_that_writes_without_end_is_stopped_and_fills_no_disk(tmp_path: Path) -> None:
    endless = """
import os, sys
sys.stderr.write("x" * 100000)
while True:
    os.write(1, b"y" * 65536)
"""

    async def main() -> None:
        program = Program(python(endless), folder=tmp_path / "grading")
        await program.open(NoInbox())
        handle = await program.submit(request())
        found = await answer(program, handle)
        assert found == Broken(reason="nonsense: the grader wrote over 16 MB", is_retryable=False)
        assert _size(Path(handle)) < 100_000
        await program.release(handle)

    run_async(main())


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def test_a_try_is_released_by_another_process_while_it_starts(tmp_path: Path) -> None:
    async def main() -> None:
        argv = [*python(WAITING), str(tmp_path / "gate")]
        first, second = (Program(argv, folder=tmp_path / "grading") for _ in range(2))
        await first.open(NoInbox())
        handle = await first.submit(request())
        await second.release(handle)  # its number is not in the folder yet
        assert not _read(Path(handle) / "request")
        await first.release(handle)

    run_async(main())


async def answer(adapter: GradeAdapter, handle: str) -> object:
    """What it says when it no longer runs."""
    async with asyncio.timeout(30):
        while isinstance(found := await adapter.poll(handle), Running):  # noqa: ASYNC110  # a process
            await asyncio.sleep(0.02)
    return found


async def written(path: Path) -> int:
    """The number in a file, when it is there."""
    async with asyncio.timeout(30):
        while not (found := await asyncio.to_thread(_read, path)):  # noqa: ASYNC110  # a process
            await asyncio.sleep(0.01)
    return int(found)


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


class NoInbox:
    """Nobody listens."""

    def wake(self, job: str) -> None: ...
    def beat(self, job: str) -> bool:
        return False

    def receive(self, job: str, attempt: int, answer: object) -> Any:
        raise AssertionError


def test_the_grader_of_an_environment_in_a_process_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    adapter = own_process("graded_envs:Shouting", {}, folder=tmp_path / "grading")
    assert graded(adapter, tmp_path) == Scored(reward=1.0, evidence="B")
    monkeypatch.setenv("GRADED_ENVS", "broken")
    limits = replace(QUICK, max_attempts=1)
    (tmp_path / "second").mkdir()
    found = graded(adapter, tmp_path / "second", limits)
    assert found == Ungraded(reason="crash: ValueError: the judge is ill")


def test_a_task_that_json_changes_is_refused_and_not_graded_as_another(tmp_path: Path) -> None:
    adapter = own_process("graded_envs:Shouting", {}, folder=tmp_path / "grading")
    for reference, why in ((("a", "b"), "is another one after JSON"), (object(), "has no form in JSON")):
        asked = replace(request(), task=Task(id="t", reference=reference))
        with pytest.raises(GraderRefused, match=why):
            run_async(adapter.submit(asked))


@pytest.mark.parametrize("backend", ["auto", pytest.param("docker", marks=pytest.mark.docker)])
def test_a_program_in_a_sandbox_finds_request_files_and_workspace(backend: str, tmp_path: Path) -> None:
    if backend == "docker":
        require("docker")
    judge = b"""
import json, pathlib, sys
asked = json.load(sys.stdin)
assert asked == json.loads(pathlib.Path("request.json").read_text())
left = pathlib.Path("workspace/0/sample").read_text()
print(json.dumps({"scores": [{"reward": 0.25, "evidence": left + asked["task"]["reference"]}]}))
"""
    adapter = Boxed(["python3", "judge.py"], SandboxSpec(backend=backend), files={"judge.py": judge})
    try:
        found = graded(adapter, tmp_path)
    except SandboxUnavailable as error:
        pytest.skip(str(error))
    assert found == Scored(reward=0.25, evidence="0the-reference")


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("import time; time.sleep(60)", "timeout: the grader took over 1 s"),
        ("print(1 / 0)", "ZeroDivisionError"),
        ("print('yes')", "nonsense"),
        ("x = bytearray(1 << 30)", "crash: "),
    ],
)
def test_a_program_in_a_sandbox_that_breaks_gives_no_number(code: str, why: str, tmp_path: Path) -> None:
    limits = replace(QUICK, max_attempts=1, attempt_s=1.0 if "sleep" in code else 30.0)
    found = graded(Boxed(["python3", "-c", code], SandboxSpec(memory_mb=128)), tmp_path, limits)
    assert isinstance(found, Ungraded) and why in found.reason
