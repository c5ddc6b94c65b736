"""Detached grading: answers, deadlines and deaths that come between two steps of the stage."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

from graded_rooms import RANGE, TASK, Counter, keep, key_of
from support import run_async

from palaestra.agents.grading.job import Broken, GradeLimits, GradeRequest, Inbox, Running, Verdicts
from palaestra.agents.grading.stage import Grading
from palaestra.agents.ledger import Ledger
from palaestra.envs import Score, Scored

ONE = Verdicts(each=(Score(reward=1.0),))


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
        grader = Hasty(lambda request, polls: ONE if request.attempt else Running())
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
