"""Detached grading: the slot is free, a restart goes on, and a try that gives no grade is no number."""

import asyncio
import resource
import tracemalloc
from contextlib import suppress
from pathlib import Path

import pytest
from graded_rooms import (
    QUICK,
    RANGE,
    TASK,
    Counter,
    Held,
    fates,
    graded,
    keep,
    key_of,
    play_at_once,
    played,
    requests,
    score,
    until,
)
from support import run_async

from palaestra.agents.collector import Collector
from palaestra.agents.evaluation import summarize
from palaestra.agents.grading.inline import Inline
from palaestra.agents.grading.job import Answer, Broken, GradeLimits, GradeRequest, Running, Verdicts
from palaestra.agents.grading.stage import Grading
from palaestra.agents.ledger import Ledger
from palaestra.agents.trajectory import EpisodeKey, Group, Played
from palaestra.envs import Score, Scored, Task, Ungraded


def test_every_episode_is_played_while_no_grade_has_come(tmp_path: Path) -> None:
    async def main() -> None:
        judge, all_played, slots = Held(), asyncio.Event(), 0

        async def play(key: EpisodeKey, task: Task, version: int) -> Played:
            nonlocal slots
            slots += 1
            if slots == 12:
                all_played.set()
            return played(key)

        with Ledger(tmp_path) as ledger:
            async with Grading(ledger, Inline(judge), reward_range=RANGE) as grading:
                collector = Collector(play, ledger, grading=grading, max_in_flight=2)
                collecting = asyncio.create_task(collector.collect(requests(3, 4)))
                await all_played.wait()
                await until(lambda: judge.num_asked == 12)
                assert ledger.counts("train") == {"played": 12} and grading.num_outstanding == 12
                judge.gate.set()
                groups = await collecting
            assert [[m.reward for m in group.members] for group in groups] == [[1.0, 0.0, 1.0, 0.0]] * 3
            assert ledger.counts("train") == {"scored": 12}

    run_async(main())


def test_the_stage_has_a_concurrency_of_its_own(tmp_path: Path) -> None:
    async def main() -> None:
        judge = Held()
        with Ledger(tmp_path) as ledger:
            limits = GradeLimits(max_outstanding=3)
            async with Grading(ledger, Inline(judge), limits, reward_range=RANGE) as grading:
                collector = Collector(play_at_once, ledger, grading=grading)
                collecting = asyncio.create_task(collector.collect(requests(2, 4)))
                await until(lambda: grading.num_outstanding == 8 and judge.num_asked == 3)
                assert judge.num_asked == 3
                judge.gate.set()
                await collecting
            assert judge.num_asked == 8

    run_async(main())


def test_a_restart_asks_for_what_was_played_and_plays_nothing_again(tmp_path: Path) -> None:
    async def main() -> None:
        first, second, plays = Held(), Held(), list[EpisodeKey]()

        async def play(key: EpisodeKey, task: Task, version: int) -> Played:
            plays.append(key)
            return played(key)

        with Ledger(tmp_path) as ledger:
            async with Grading(ledger, Inline(first), reward_range=RANGE) as grading:
                collector = Collector(play, ledger, grading=grading)
                collecting = asyncio.create_task(collector.collect(requests(1, 2)))
                await until(lambda: first.num_asked == 2)
                collecting.cancel()
                with suppress(asyncio.CancelledError):
                    await collecting
            assert ledger.counts("train") == {"played": 2}
        with Ledger(tmp_path) as ledger:
            second.gate.set()
            async with Grading(ledger, Inline(second), reward_range=RANGE) as grading:
                (group,) = await Collector(play, ledger, grading=grading).collect(requests(1, 2))
        assert [member.reward for member in group.members] == [1.0, 0.0]
        assert len(plays) == 2 and second.num_asked == 2

    run_async(main())


def test_a_restart_goes_on_with_the_stored_handle(tmp_path: Path) -> None:
    async def main() -> None:
        first = Counter(lambda request, polls: Running())
        second = Counter(lambda request, polls: score(0.5) if polls else Running())
        second.taken = first.taken
        with Ledger(tmp_path) as ledger:
            keep(ledger, key_of())
            async with Grading(ledger, first, QUICK, reward_range=RANGE) as grading:
                grade = asyncio.create_task(grading.grade([key_of()], TASK))
                await until(lambda: bool(first.polled))
                grade.cancel()
            job = ledger.grades.open([key_of()])
            assert job.is_open and job.handle == first.taken[0].key and not first.released
        with Ledger(tmp_path) as ledger:
            async with Grading(ledger, second, QUICK, reward_range=RANGE) as grading:
                await grading.grade([key_of()], TASK)
            assert ledger.counts("train") == {"scored": 1}
        assert len(first.taken) == 1 and second.polled == [job.handle] * 2

    run_async(main())


def test_a_submission_that_may_have_been_heard_is_repeated_with_the_same_key(tmp_path: Path) -> None:
    counter = Counter(lambda request, polls: score(1.0), breaks=[ConnectionError("reset"), OSError("gone")])
    assert graded(counter, tmp_path) == Scored(reward=1.0)
    assert len({request.key for request in counter.taken}) == 1 and len(counter.taken) == 3


def test_a_try_that_came_to_nothing_is_made_again_with_another_key(tmp_path: Path) -> None:
    counter = Counter(lambda request, polls: Broken(reason="died") if request.attempt < 2 else score(1.0))
    assert graded(counter, tmp_path) == Scored(reward=1.0)
    assert [request.attempt for request in counter.taken] == [0, 1, 2]
    assert counter.released == [request.key for request in counter.taken]
    with Ledger(tmp_path) as ledger:
        assert fates(ledger) == {"broken": 2, "kept": 1}


@pytest.mark.parametrize(
    ("answer", "limits", "why", "tries"),
    [
        (Broken(reason="crash: died"), QUICK, "crash: died", 3),
        (Broken(reason="nonsense: ?", is_retryable=False), QUICK, "nonsense: ?", 1),
        (Verdicts(each=()), QUICK, "nonsense: 0 scores for 1 episodes", 1),
        (score(7.0), QUICK, "range: the reward 7 is outside", 1),
        (Verdicts(each=(Score(reward=1.0, turns=(1.0,)),)), QUICK, "turns: 1 rewards for 2 turns", 1),
        (Verdicts(each=(Ungraded(reason="no idea"),)), QUICK, "no idea", 1),
        (
            Running(),
            GradeLimits(poll_s=0.01, retry_s=0, attempt_s=0.05, max_attempts=2),
            "timeout: the grader took over 0.05 s",
            2,
        ),
        (
            Running(beat="the same"),
            GradeLimits(poll_s=0.01, retry_s=0, heartbeat_s=0.05, max_attempts=2),
            "lost: the grader gave no sign of life for 0.05 s",
            2,
        ),
        (
            Running(),
            GradeLimits(poll_s=0.01, retry_s=0, attempt_s=0.2, total_s=0.1),
            "timeout: all tries together took over 0.1 s",
            1,
        ),
    ],
)
def test_what_gives_no_grade_is_ungraded_with_its_reason_and_nowhere_a_number(
    answer: Answer, limits: GradeLimits, why: str, tries: int, tmp_path: Path
) -> None:
    counter = Counter(lambda request, polls: answer)
    outcome = graded(counter, tmp_path, limits)
    assert isinstance(outcome, Ungraded) and why in outcome.reason
    assert len(counter.taken) == tries
    with Ledger(tmp_path) as ledger:
        assert ledger.select("SELECT state, reward FROM episodes") == [("ungraded", None)]
        found = list(ledger.trajectories("train"))
    report = summarize("train", [Group(task_id="t", members=tuple(found))], RANGE)
    assert report.reward is None and report.bounds == RANGE and report.outcomes == {"ungraded": 1}


def test_a_submission_that_is_refused_is_not_repeated(tmp_path: Path) -> None:
    counter = Counter(breaks=[TypeError("no such field")])
    outcome = graded(counter, tmp_path)
    assert outcome == Ungraded(reason="crash: TypeError: no such field") and len(counter.taken) == 1


def test_life_shows_in_beats_that_change_and_in_beats_that_are_brought(tmp_path: Path) -> None:
    def answers(request: GradeRequest, polls: int) -> Answer:
        return score(1.0) if polls == 30 else Running(beat=str(polls))

    limits = GradeLimits(poll_s=0.01, heartbeat_s=2.0, max_attempts=1)
    assert graded(Counter(answers), tmp_path, limits) == Scored(reward=1.0)


def test_a_thousand_outstanding_grades_cost_little_and_are_rarely_asked_for(tmp_path: Path) -> None:
    async def main() -> None:
        judge = Held()
        with Ledger(tmp_path) as ledger:
            limits = GradeLimits(max_outstanding=1000)
            async with Grading(ledger, Inline(judge), limits, reward_range=RANGE) as grading:
                collector = Collector(play_at_once, ledger, grading=grading)
                tracemalloc.start()
                collecting = asyncio.create_task(collector.collect(requests(250, 4)))
                await until(lambda: judge.num_asked == 1000)
                grown, _ = tracemalloc.get_traced_memory()
                tracemalloc.stop()
                before = resource.getrusage(resource.RUSAGE_SELF)
                await asyncio.sleep(0.5)
                after = resource.getrusage(resource.RUSAGE_SELF)
                judge.gate.set()
                groups = await collecting
        assert grown < 50e6, f"{grown / 1e6:.0f} MB"
        busy_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        assert busy_s < 0.1, "somebody is asking all the time"
        assert all(member.reward is not None for group in groups for member in group.members)

    run_async(main())


def test_looks_at_a_job_become_rarer_with_its_age(tmp_path: Path) -> None:
    counter = Counter(lambda request, polls: Running())
    limits = GradeLimits(poll_s=0.02, attempt_s=1.0, max_attempts=1)
    graded(counter, tmp_path, limits)
    assert 5 < len(counter.polled) < 40, "0.02 s apart at first, then a tenth of the age"
