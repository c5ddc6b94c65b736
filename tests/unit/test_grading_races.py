"""Detached grading: answers, deadlines and deaths that come between two steps of the stage."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

from graded_rooms import QUICK, RANGE, TASK, Counter, graded, keep, key_of, score, until
from support import run_async

from palaestra.agents.grading.job import Broken, GradeLimits, GradeRequest, Inbox, Running
from palaestra.agents.grading.stage import Grading
from palaestra.agents.grading.wire import read_answer
from palaestra.agents.ledger import Ledger
from palaestra.envs import Scored, Ungraded


@dataclass
class Hasty(Counter):
    """Calls back that the first try failed before it says that it has taken it."""

    async def open(self, inbox: Inbox) -> None:
        self.inbox = inbox

    async def submit(self, request: GradeRequest) -> str:
        if request.attempt == 0:
            self.inbox.receive(request.job, 0, Broken(reason="crash: at once"))
            await asyncio.sleep(0)
        return await super().submit(request)


def test_a_try_that_failed_before_it_was_taken_is_followed_by_another(tmp_path: Path) -> None:
    async def main() -> None:
        grader = Hasty(lambda request, polls: score(1.0) if request.attempt else Running())
        limits = GradeLimits(poll_s=0.01, retry_s=0.0, attempt_s=5.0, max_attempts=2)
        with Ledger(tmp_path) as ledger:
            keep(ledger, key_of())
            async with Grading(ledger, grader, limits, reward_range=RANGE) as grading:
                await grading.grade([key_of()], TASK)
            found = ledger.finished(key_of())
            assert found is not None and found.outcome == Scored(reward=1.0)
        first, second = (request.key for request in grader.taken)
        assert grader.polled == [second] and grader.released == [first, second]

    run_async(main())


def test_a_try_that_starts_while_its_group_is_closed_is_released(tmp_path: Path) -> None:
    taken = asyncio.Event()

    class Slow(Counter):
        async def submit(self, request: GradeRequest) -> str:
            self.taken.append(request)
            await taken.wait()
            return request.key

    async def main() -> None:
        grader = Slow()
        with Ledger(tmp_path) as ledger:
            keep(ledger, key_of())
            async with Grading(ledger, grader, QUICK, reward_range=RANGE) as grading:
                waiting = asyncio.create_task(grading.grade([key_of()], TASK))
                await until(lambda: bool(grader.taken))
                grading.give_up([key_of()], "late", is_late=True)
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)
                taken.set()
        assert grader.released == [grader.taken[0].key]

    run_async(main())


def test_a_job_that_runs_out_of_time_says_what_went_wrong_last(tmp_path: Path) -> None:
    limits = GradeLimits(poll_s=0.01, retry_s=0.01, attempt_s=0.1, total_s=0.1)
    unreachable = Counter(breaks=[ConnectionError("refused")] * 1000)
    outcome = graded(unreachable, tmp_path, limits)
    why = "timeout: all tries together took over 0.1 s; the last trouble: ConnectionError: refused"
    assert outcome == Ungraded(reason=why)


def test_an_answer_that_names_another_job_is_no_grade(tmp_path: Path) -> None:
    other = read_answer('{"id": "another-job", "scores": [{"reward": 1.0}]}')
    assert not isinstance(other, Running)
    outcome = graded(Counter(lambda request, polls: other), tmp_path)
    assert isinstance(outcome, Ungraded) and "nonsense: the answer to 'another-job'" in outcome.reason
