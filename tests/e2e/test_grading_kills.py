"""kill -9 a trainer whose grades are under way elsewhere: each job gives one score.

The oracle is a run that grades inside its rollouts and that nobody stops: not a bit may be different.
"""

import asyncio
import json
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from grade_service import GradeService, ServedJob
from support import ROOT, run_async
from trained_envs import Digits
from trainings import TINY_RECIPE, Training, check_same, check_whole, go_on, inside, result

from palaestra.agents.grading.wire import read_request, verdicts_json
from palaestra.envs.graders.grading import ask

SHORT: dict[str, Any] = TINY_RECIPE | {"warm_start": None, "evaluation": {"every": 1}}
SHORT["grpo"] = TINY_RECIPE["grpo"] | {"steps": 2}
LIMITS: dict[str, Any] = {"poll_s": 0.02, "retry_s": 0.0}
CHILD = ["env", f"PYTHONPATH={ROOT / 'tests'}", sys.executable, "-P", "-m", "palaestra.agents.grading.child"]
PROGRAM: dict[str, Any] = {"kind": "subprocess", "command": [*CHILD, "trained_envs:Sums", "{}"]}
"""The environment's own grader, which must be told where the tests' modules are."""

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def unkilled(tmp_path_factory: pytest.TempPathFactory) -> Training:
    """Without a grading section: the grades of the environment's own grader, when they are due."""
    run = Training(tmp_path_factory.mktemp("unkilled"), SHORT)
    assert run.start().wait() == 0, run.log()
    return run


def outstanding(run: Training) -> list[tuple[str, float]]:
    """Jobs that the grader has and that have no result, with the moment at which they were opened."""
    return run.query(
        "SELECT id, opened_at FROM grade_jobs WHERE state = 'open' AND handle IS NOT NULL ORDER BY id"
    )


def check_graded_once(run: Training) -> None:
    """One job an episode, one result a job, and nothing left to do or to forget."""
    states = run.query("SELECT state, attempt, count(*) FROM grade_jobs GROUP BY state, attempt")
    ((episodes, scored),) = run.query("SELECT count(*), sum(state = 'scored') FROM episodes")
    assert states == [("done", 0, episodes)] and scored == episodes
    members = [
        tuple(key) for (keys,) in run.query("SELECT members FROM grade_jobs") for key in json.loads(keys)
    ]
    assert len(set(members)) == len(members) == episodes
    results = run.query("SELECT job, group_concat(fate) FROM grade_results GROUP BY job")
    assert len(results) == episodes and {fates for _, fates in results} == {"kept"}
    assert run.query("SELECT 1 FROM grade_jobs WHERE handle IS NOT NULL") == []


async def digits(job: ServedJob) -> dict[str, Any]:
    """What the environment's own grader says."""
    asked = read_request(json.dumps(job.asked).encode())
    found: dict[str, Any] = json.loads(verdicts_json(await ask(Digits(), asked.task, asked.episodes)))
    return found


def kill_when(run: Training, num_jobs: int, waiting: int) -> list[tuple[str, float]]:
    """kill -9 with so many jobs in the run file, and so many of them outstanding; these."""

    def is_time() -> bool:
        found = run.query("SELECT count(*), sum(state = 'open' AND handle IS NOT NULL) FROM grade_jobs")
        return found == [(num_jobs, waiting)]

    assert go_on(run, lambda run: run.start().stop_when(is_time)) == -signal.SIGKILL, run.log()
    return outstanding(run)


def test_a_trainer_that_is_killed_while_grades_are_outstanding_gets_each_of_them_once(
    unkilled: Training, tmp_path: Path
) -> None:
    """In a step, in the evaluation behind it, and in the next step, while no checkpoint holds the first."""

    num_free = 0

    async def judge(job: ServedJob) -> dict[str, Any] | None:
        return await digits(job) if list(service.jobs).index(job.key) < num_free else None

    async def main() -> None:
        nonlocal num_free
        async with service:
            run = Training(tmp_path, SHORT | {"grading": LIMITS | {"kind": "http", "url": service.url}})
            # Six demonstrations and four of the baseline, then four each: a step, an evaluation, a step.
            for num_jobs, waiting, split in ((14, 3, "train"), (18, 4, "step-000001"), (22, 1, "train")):
                num_free = num_jobs - waiting
                killed = await asyncio.to_thread(kill_when, run, num_jobs, waiting)
                assert len(killed) == waiting, "they are outstanding still"
                played = run.query("SELECT split, count(*) FROM episodes WHERE state = 'played' GROUP BY 1")
                ((where, num_played),) = played
                # One that has just been played may have no job yet.
                assert where == split and num_played >= waiting
            num_free = 1000
            assert await asyncio.to_thread(go_on, run, lambda run: run.start().wait()) == 0, run.log()
            assert len(service.keys) == len(set(service.keys)) == 26, "no job is submitted twice"
        check_graded_once(run)
        check_whole(run, steps=2)
        check_same(run, unkilled)

    service = GradeService(judge=judge)
    run_async(main())


async def answered(service: GradeService, work: Callable[[], None]) -> None:
    """Do the work in a thread, while the service answers."""
    async with service:
        await asyncio.to_thread(work)


def kill_after(run: Training, goal: int, wait_s: float) -> list[tuple[str, float]]:
    """kill -9 so long after the run file holds so many episodes, jobs and results; what was outstanding."""
    sql = " + ".join(
        f"(SELECT count(*) FROM {table})" for table in ("episodes", "grade_jobs", "grade_results")
    )

    def is_time() -> bool:
        if sum(count for (count,) in run.query(f"SELECT {sql}")) < goal:
            return False
        time.sleep(wait_s)
        return True

    assert go_on(run, lambda run: run.start().stop_when(is_time)) in (0, -signal.SIGKILL), run.log()
    return outstanding(run)


NUM_KILLS = 25


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Training:
    """Every stage of a run, nobody stopping it."""
    run = Training(tmp_path_factory.mktemp("whole"), TINY_RECIPE)
    assert run.start().wait() == 0, run.log()
    return run


@pytest.mark.acceptance
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kind", ["http", "subprocess", "inline"])
def test_kills_at_many_random_moments_give_each_grade_once_and_the_same_bits(
    whole: Training, kind: str, tmp_path: Path
) -> None:
    """Each start makes some progress and dies a random while later; most with jobs outstanding."""
    chance, service = random.Random(kind), GradeService()

    async def judge(job: ServedJob) -> dict[str, Any] | None:
        return await digits(job) if job.num_polls > chance.randint(1, 8) else None

    def work() -> None:
        where = {"http": {"url": service.url}, "subprocess": PROGRAM, "inline": {}}[kind]
        env = TINY_RECIPE["env"] | ({"id": "trained_envs:SlowSums"} if kind == "inline" else {})
        run = Training(tmp_path, TINY_RECIPE | {"env": env, "grading": LIMITS | {"kind": kind} | where})
        goals = sorted(chance.sample(range(3 * len(result(whole).episodes)), NUM_KILLS))
        hits = [kill_after(run, goal, chance.random() * 0.05) for goal in goals]
        assert go_on(run, lambda run: run.start().wait()) == 0, run.log()
        print(f"{kind}: {sum(map(bool, hits))} of {NUM_KILLS} kills with jobs outstanding")
        assert sum(map(bool, hits)) > NUM_KILLS // 4, "else they show little"
        check_graded_once(run)
        check_whole(run, steps=4)
        check_same(run, whole)
        assert kind != "subprocess" or not list((run.run / "grading").iterdir())

    service.judge = judge
    run_async(answered(service, work))


@pytest.mark.acceptance
@pytest.mark.timeout(1800)
def test_a_kill_at_any_file_event_of_a_graders_process_gives_its_grade_once(
    unkilled: Training, tmp_path: Path
) -> None:
    """Of the first jobs: made, locked, asked, started, read, released."""
    recipe = SHORT | {"grading": LIMITS | PROGRAM, "engine": {"slots": 8, "max_in_flight": 1}}
    for number in range(1, 16):
        run = Training(tmp_path / str(number), recipe)
        run.folder.mkdir()
        assert go_on(run, inside("grading", number)) == -signal.SIGKILL, run.log()
        assert go_on(run, lambda run: run.start().wait()) == 0, run.log()
        check_graded_once(run)
        check_same(run, unkilled)
        assert not list((run.run / "grading").iterdir()), number
