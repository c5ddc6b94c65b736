"""Detached grading: the slot is free, the job is on disk, and exactly one result counts."""

import asyncio
import resource
import sqlite3
import tracemalloc
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path

import pytest
from graded_rooms import (
    RANGE,
    V0,
    Counter,
    Held,
    keep,
    key_of,
    play_at_once,
    played,
    requests,
    sample_of,
    until,
)
from support import run_async

from palaestra.agents.collector import Collector
from palaestra.agents.errors import LedgerError
from palaestra.agents.evaluation import summarize
from palaestra.agents.grading.inline import Inline
from palaestra.agents.grading.job import Answer, Broken, Fate, GradeLimits, GradeRequest, Running, Verdicts
from palaestra.agents.grading.stage import Grading
from palaestra.agents.ledger import SCHEMA_VERSION, Ledger
from palaestra.agents.trajectory import EpisodeKey, Group, Played, Trajectory
from palaestra.envs import Episode, Failed, Score, Scored, Task, Ungraded, Workspace
from palaestra.envs.graders import grade_episode
from palaestra.trainer.advantages import Reason
from palaestra.trainer.judge import judge
from palaestra.trainer.recipe import GrpoSection

TASK = Task(id="t")
QUICK = GradeLimits(poll_s=0.01, retry_s=0.0)


def score(reward: float) -> Verdicts:
    return Verdicts(each=(Score(reward=reward),))


def outcome_by(adapter: Counter, folder: Path, limits: GradeLimits = QUICK) -> Scored | Ungraded | Failed:
    """The outcome of one episode."""

    async def main() -> Scored | Ungraded | Failed:
        with Ledger(folder) as ledger:
            keep(ledger, key_of())
            async with Grading(ledger, adapter, limits, reward_range=RANGE) as grading:
                await grading.grade([key_of()], TASK)
            found = ledger.finished(key_of())
            assert found is not None
            return found.outcome

    return run_async(main())


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
    assert outcome_by(counter, tmp_path) == Scored(reward=1.0)
    assert len({request.key for request in counter.taken}) == 1 and len(counter.taken) == 3


def test_a_try_that_came_to_nothing_is_made_again_with_another_key(tmp_path: Path) -> None:
    counter = Counter(lambda request, polls: Broken(reason="died") if request.attempt < 2 else score(1.0))
    assert outcome_by(counter, tmp_path) == Scored(reward=1.0)
    assert [request.attempt for request in counter.taken] == [0, 1, 2]
    assert counter.released == [request.key for request in counter.taken]
    with Ledger(tmp_path) as ledger:
        assert ledger.grades.fates() == {"broken": 2, "kept": 1}


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
    outcome = outcome_by(counter, tmp_path, limits)
    assert isinstance(outcome, Ungraded) and why in outcome.reason
    assert len(counter.taken) == tries
    with Ledger(tmp_path) as ledger:
        assert ledger.select("SELECT state, reward FROM episodes") == [("ungraded", None)]
        found = list(ledger.trajectories("train"))
    report = summarize("train", [Group(task_id="t", members=tuple(found))], RANGE)
    assert report.reward is None and report.bounds == RANGE and report.outcomes == {"ungraded": 1}


def test_a_submission_that_is_refused_is_not_repeated(tmp_path: Path) -> None:
    counter = Counter(breaks=[TypeError("no such field")])
    outcome = outcome_by(counter, tmp_path)
    assert outcome == Ungraded(reason="crash: TypeError: no such field") and len(counter.taken) == 1


def test_life_shows_in_beats_that_change_and_in_beats_that_are_brought(tmp_path: Path) -> None:
    def answers(request: GradeRequest, polls: int) -> Answer:
        return score(1.0) if polls == 30 else Running(beat=str(polls))

    limits = GradeLimits(poll_s=0.01, heartbeat_s=2.0, max_attempts=1)
    assert outcome_by(Counter(answers), tmp_path, limits) == Scored(reward=1.0)


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
            assert ledger.grades.fates() == {"kept": 1, "duplicate": 1, "broken": 1}

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
    before = outcome_by(Counter(lambda request, polls: Running()), tmp_path, limits)
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


def late_groups(folder: Path, close_after_s: float | None) -> tuple[Group, Ledger]:
    """A group of four in which one grade never comes by itself."""

    def answers(request: GradeRequest, polls: int) -> Answer:
        number = sample_of(request.episodes[0])
        return Running() if number == 3 and polls < 20 else score(number / 4)

    async def main() -> tuple[Group, Ledger]:
        ledger = Ledger(folder)
        limits = GradeLimits(poll_s=0.01, close_after_s=close_after_s)
        async with Grading(ledger, Counter(answers), limits, reward_range=RANGE) as grading:
            (group,) = await Collector(play_at_once, ledger, grading=grading).collect(requests(1, 4))
        return group, ledger

    return run_async(main())


def test_a_group_that_waits_has_every_grade(tmp_path: Path) -> None:
    group, ledger = late_groups(tmp_path, None)
    assert [member.reward for member in group.members] == [0.0, 0.25, 0.5, 0.75]
    ledger.close()


def test_a_group_that_is_closed_goes_on_without_the_late_grade_or_not_at_all(tmp_path: Path) -> None:
    group, ledger = late_groups(tmp_path, 0.05)
    assert [member.reward for member in group.members] == [0.0, 0.25, 0.5, None]
    last = group.members[-1].outcome
    assert isinstance(last, Ungraded) and last.is_late and "late: not there 0.05 s after" in last.reason
    section = GrpoSection(steps=1)
    partial = judge([group], section, seed=0, step=0)
    assert len(partial.accepted) == 3
    assert [each.reason for each in partial.rejected] == [Reason.UNGRADED]
    dropped = judge([group], section, seed=0, step=0, late="drop")
    assert not dropped.accepted and {each.reason for each in dropped.rejected} == {
        Reason.UNGRADED,
        Reason.LATE_GROUP,
    }
    assert ledger.grades.fates() == {"kept": 3, "given up": 1}
    ledger.close()


class Ranks:
    """The best of the siblings earns 1; it must see all of them."""

    def __init__(self) -> None:
        self.seen = list[list[int]]()

    async def grade_group(self, task: Task, episodes: Sequence[Episode]) -> Sequence[Score]:
        numbers = [sample_of(episode) for episode in episodes]
        self.seen.append(numbers)
        return [Score(reward=float(number == max(numbers))) for number in numbers]


def test_a_group_grader_sees_the_siblings_together_but_those_that_failed(tmp_path: Path) -> None:
    async def play(key: EpisodeKey, task: Task, version: int) -> Trajectory | Played:
        broken = Failed(stage="step", cause="TypeError", retryable=False)
        return played(key).judged(broken) if key.sample == 2 else played(key)

    async def main() -> None:
        ranks = Ranks()
        with Ledger(tmp_path) as ledger:
            stage = Grading(ledger, Inline(ranks), reward_range=RANGE, is_of_groups=True)
            async with stage as grading:
                groups = await Collector(play, ledger, grading=grading).collect(requests(2, 4))
            assert ranks.seen == [[0, 1, 3]] * 2
            assert [[m.reward for m in group.members] for group in groups] == [[0.0, 0.0, None, 1.0]] * 2
            assert ledger.counts("train") == {"scored": 6, "failed": 2}

    run_async(main())


def test_a_group_grader_that_forgets_one_gives_no_grade_to_any(tmp_path: Path) -> None:
    class Forgetful(Ranks):
        async def grade_group(self, task: Task, episodes: Sequence[Episode]) -> Sequence[Score]:
            return (await super().grade_group(task, episodes))[:-1]

    async def main() -> None:
        with Ledger(tmp_path) as ledger:
            stage = Grading(ledger, Inline(Forgetful()), QUICK, reward_range=RANGE, is_of_groups=True)
            async with stage as grading:
                (group,) = await Collector(play_at_once, ledger, grading=grading).collect(requests(1, 3))
        reasons = {m.outcome.reason for m in group.members if isinstance(m.outcome, Ungraded)}
        assert reasons == {"crash: TypeError: the grader returned 2 scores for 3 episodes"}

    run_async(main())


def test_a_group_grader_alone_with_an_episode_grades_a_group_of_one() -> None:
    outcome = run_async(grade_episode(Ranks(), TASK, played(key_of()).episode, reward_range=RANGE))
    assert outcome == Scored(reward=1.0)


def test_turns_and_components_are_kept_up_to_the_report(tmp_path: Path) -> None:
    async def main() -> None:
        judge = Held()
        judge.gate.set()
        with Ledger(tmp_path) as ledger:
            async with Grading(ledger, Inline(judge), reward_range=RANGE) as grading:
                await Collector(play_at_once, ledger, grading=grading).collect(requests(1, 2))
        with Ledger(tmp_path, read_only=True) as ledger:
            found = tuple(ledger.trajectories("train"))
        assert [m.outcome.turns for m in found if isinstance(m.outcome, Scored)] == [(0.0, 1.0)] * 2
        report = summarize("train", [Group(task_id="t0", members=found)], RANGE)
        assert report.turn_rewards == (0.0, 1.0) and report.components == {"even": 0.5}

    run_async(main())


def test_a_grader_without_a_number_for_a_turn_has_none_at_all(tmp_path: Path) -> None:
    class Odd:
        async def grade(self, task: Task, episode: Episode, workspace: Workspace | None) -> Score:
            return Score(reward=1.0, turns=(0.5, None))  # type: ignore[arg-type]  # that is the point

    outcome = run_async(grade_episode(Odd(), TASK, played(key_of()).episode))
    assert isinstance(outcome, Ungraded) and "Score.turns[1] is None" in outcome.reason


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
    outcome_by(counter, tmp_path, limits)
    assert 5 < len(counter.polled) < 40, "0.02 s apart at first, then a tenth of the age"


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
