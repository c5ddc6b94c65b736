"""Grades in the run file: one result counts, whatever comes when, and nothing is half on record."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from graded_rooms import (
    QUICK,
    RANGE,
    TASK,
    V0,
    Counter,
    fates,
    graded,
    keep,
    key_of,
    played,
    score,
    until,
)
from support import run_async

from palaestra.agents.errors import LedgerError
from palaestra.agents.grading.job import Broken, Fate, GradeLimits, Running, Verdicts
from palaestra.agents.grading.stage import Grading
from palaestra.agents.ledger import SCHEMA_VERSION, Ledger
from palaestra.envs import Scored, Ungraded


def test_one_result_counts_and_the_others_are_on_record(tmp_path: Path) -> None:
    async def main() -> None:
        with Ledger(tmp_path) as ledger:
            keep(ledger, key_of())
            async with Grading(ledger, Counter(), QUICK, reward_range=RANGE) as grading:
                job = ledger.grades.open([key_of()])
                waiting = asyncio.create_task(grading.grade([key_of()], TASK))
                assert grading.receive(job.id, 0, score(0.25)) is Fate.KEPT
                await waiting
                assert grading.receive(job.id, 0, score(0.75)) is Fate.DUPLICATE
                assert grading.receive(job.id, 1, Broken(reason="died")) is Fate.BROKEN
                assert grading.receive("unheard-of", 0, score(1.0)) is Fate.UNKNOWN
            found = ledger.finished(key_of())
            assert found is not None and found.outcome == Scored(reward=0.25)
            assert fates(ledger) == {"kept": 1, "duplicate": 1, "broken": 1}

    run_async(main())


@pytest.mark.parametrize("answer", [score(0.25), Broken(reason="died")])
def test_a_result_that_cannot_be_put_on_record_settles_nothing(
    answer: Verdicts | Broken, tmp_path: Path
) -> None:
    """A kill between the two would leave a grade that nobody gave."""

    async def main() -> None:
        with Ledger(tmp_path) as ledger:
            keep(ledger, key_of())
            job = ledger.grades.open([key_of()])
            ledger.select(
                "CREATE TEMP TRIGGER t BEFORE INSERT ON grade_results BEGIN SELECT raise(ABORT, 'no'); END"
            )
            async with Grading(ledger, Counter(), QUICK, reward_range=RANGE) as grading:
                with pytest.raises(LedgerError):
                    grading.receive(job.id, 0, answer)
            assert ledger.grades.job(job.id) == job and ledger.counts("train") == {"played": 1}

    run_async(main())


def test_a_restart_tells_the_grader_what_the_start_before_could_not(tmp_path: Path) -> None:
    """kill -9 between a result and the release of its try."""

    async def main() -> None:
        counter = Counter()
        with Ledger(tmp_path) as ledger:
            keep(ledger, key_of())
            job = ledger.grades.open([key_of()])
            ledger.grades.submitted(job, "the-handle")
            ledger.grades.settle(job.id, 0, [Scored(reward=0.5)], said="")
        for _ in range(2):
            with Ledger(tmp_path) as ledger:
                async with Grading(ledger, counter, QUICK, reward_range=RANGE):
                    pass
        assert counter.released == ["the-handle"] and not counter.taken

    run_async(main())


def test_a_result_after_the_deadline_is_late_and_changes_nothing(tmp_path: Path) -> None:
    limits = GradeLimits(poll_s=0.01, attempt_s=0.05, max_attempts=1)
    before = graded(Counter(lambda request, polls: Running()), tmp_path, limits)
    assert isinstance(before, Ungraded)

    async def main() -> None:
        with Ledger(tmp_path) as ledger:
            async with Grading(ledger, Counter(), limits, reward_range=RANGE) as grading:
                assert grading.receive(ledger.grades.open([key_of()]).id, 0, score(1.0)) is Fate.LATE
            found = ledger.finished(key_of())
            assert found is not None and found.outcome == before
            ((said,),) = ledger.select("SELECT said FROM grade_results WHERE fate = 'late'")
            assert '"reward": 1.0' in said

    run_async(main())


def test_a_result_of_an_earlier_try_counts_if_it_is_the_first(tmp_path: Path) -> None:
    async def main() -> None:
        counter = Counter(lambda request, polls: Running() if request.attempt else Broken(reason="lost"))
        with Ledger(tmp_path) as ledger:
            keep(ledger, key_of())
            async with Grading(ledger, counter, QUICK, reward_range=RANGE) as grading:
                waiting = asyncio.create_task(grading.grade([key_of()], TASK))
                await until(lambda: len(counter.taken) == 2)
                assert grading.receive(counter.taken[0].job, 0, score(0.5)) is Fate.KEPT
                await waiting
            assert ledger.counts("train") == {"scored": 1}

    run_async(main())


def test_a_last_try_that_broke_and_the_end_of_its_job_are_one_transaction(tmp_path: Path) -> None:
    """A kill between the two would have the job tried again, and scored, after the restart."""

    async def main() -> None:
        with Ledger(tmp_path) as ledger:
            keep(ledger, key_of())
            job = ledger.grades.open([key_of()])
            ledger.select(
                "CREATE TEMP TRIGGER t BEFORE UPDATE ON episodes BEGIN SELECT raise(ABORT, 'no'); END"
            )
            async with Grading(ledger, Counter(), QUICK, reward_range=RANGE) as grading:
                with pytest.raises(LedgerError):
                    grading.receive(job.id, 0, Broken(reason="no key", is_retryable=False))
            assert ledger.grades.job(job.id) == job and not fates(ledger)

    run_async(main())


def test_each_try_that_breaks_is_counted_once_and_a_job_that_is_given_up_by_its_name(tmp_path: Path) -> None:
    async def main() -> None:
        with Ledger(tmp_path) as ledger:
            keep(ledger, key_of(), key_of(sample=1))
            async with Grading(ledger, Counter(), QUICK, reward_range=RANGE) as grading:
                job = ledger.grades.open([key_of()])
                for attempt in range(QUICK.max_attempts):
                    assert grading.receive(job.id, attempt, Broken(reason="died")) is Fate.BROKEN
                assert fates(ledger) == {"broken": QUICK.max_attempts}
                grading.give_up([key_of(sample=1)], "the group goes on")
            assert fates(ledger) == {"broken": QUICK.max_attempts, "given up": 1}
            assert ledger.counts("train") == {"ungraded": 2}

    run_async(main())


def test_a_run_file_without_grade_jobs_gets_their_tables(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.issue(key_of(), V0)
        ledger.finish(played(key_of()).judged(Scored(reward=0.5)))
    with closing(sqlite3.connect(tmp_path / "run.sqlite")) as db:  # as the version before wrote it
        db.executescript("DROP TABLE grade_jobs; DROP TABLE grade_results;")
        db.execute("UPDATE meta SET value = '1' WHERE key = 'schema_version'")
        db.commit()
    with Ledger(tmp_path, read_only=True) as ledger:
        assert ledger.meta("schema_version") == "1"
        assert [each.reward for each in ledger.trajectories("train")] == [0.5]
    with Ledger(tmp_path) as ledger:
        assert ledger.meta("schema_version") == str(SCHEMA_VERSION)
        keep(ledger, key_of(sample=1))
        assert ledger.grades.open([key_of(sample=1)]).is_open
        assert ledger.counts("train") == {"scored": 1, "played": 1}


def test_a_played_episode_whose_json_was_cut_is_named(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        keep(ledger, key_of())
        ledger.select("UPDATE episodes SET episode = substr(episode, 1, 20)")
        with pytest.raises(LedgerError, match=r"EpisodeKey.*task_id='t'.*cannot be read"):
            ledger.grades.played(key_of())
