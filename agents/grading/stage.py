"""The stage between a played episode and its outcome.

    grade(members) ──open──> job ──room──> submit ──handle──> poll, or a callback ──settle──> outcomes
                              │               │                  │
                              └────────── run file ──────────────┘      a try that breaks: a pause, and again

Everything that a restart needs is in the run file before anybody waits for it: `grade` after kill -9 is
`grade`. An outcome is written once, by `GradeBook.settle`; what comes later is on record and changes nothing.
"""

import asyncio
from collections.abc import Sequence

from ...envs import Task, Ungraded
from ...envs.errors import EpisodeFailed
from ...envs.graders.grading import crash, outcome_of
from ..ledger import Ledger
from ..trajectory import EpisodeKey, Played
from .calls import Calls, trouble
from .job import Broken, Fate, GradeAdapter, GradeJob, GradeLimits, GradeRequest, Running, Verdicts
from .watch import Watch
from .wire import verdicts_json

MAX_SUBMISSIONS = 16
"""At one time: each holds whole episodes in memory."""


class Grading:
    """Grades what was played, by one adapter.

    async with Grading(ledger, Inline(grader), reward_range=(0.0, 1.0)) as grading:
        await grading.grade([key], task)
    ledger.finished(key)  # its outcome is there
    """

    def __init__(
        self,
        ledger: Ledger,
        adapter: GradeAdapter,
        limits: GradeLimits | None = None,
        *,
        reward_range: tuple[float, float],
        is_of_groups: bool = False,
    ) -> None:
        """`is_of_groups`: the grader wants the siblings of a group together."""
        self.limits, self.is_of_groups = limits or GradeLimits(), is_of_groups
        self._book, self._adapter, self._reward_range = ledger.grades, adapter, reward_range
        self._calls = Calls(adapter, ledger.grades)
        self._room = asyncio.Semaphore(self.limits.max_outstanding)
        self._submissions = asyncio.Semaphore(MAX_SUBMISSIONS)
        self._watches: dict[str, Watch] = {}
        self._mine: set[str] = set()

    async def __aenter__(self) -> "Grading":
        await self._adapter.open(self)
        for handle in self._book.leftovers():  # of a start that was killed before it could say so
            self._calls.release_soon(handle)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._calls.finish()
        await self._adapter.close()

    @property
    def num_outstanding(self) -> int:
        """Jobs that somebody waits for."""
        return len(self._watches)

    async def grade(self, members: Sequence[EpisodeKey], task: Task) -> None:
        """Returns when every member, played and in the run file, has its outcome there."""
        job = self._book.open(members)
        self._watches[job.id] = Watch(self.limits)
        try:
            async with self._room:
                await self._tries(job.id, task)
        finally:
            del self._watches[job.id]
            self._mine.discard(job.id)

    def give_up(self, members: Sequence[EpisodeKey], reason: str, *, is_late: bool = False) -> None:
        """The outcome of these is `Ungraded`, if they have none yet."""
        job = self._book.open(members)
        if not job.is_open:
            return
        self._book.give_up(job, Ungraded(reason=reason, is_late=is_late))
        self.wake(job.id)
        if job.handle is not None:
            self._calls.release_soon(job.handle)

    def wake(self, job: str) -> None:
        """Something happened to a job: look at it now."""
        if (watch := self._watches.get(job)) is not None:
            watch.news.set()

    def beat(self, job: str) -> bool:
        """A sign of life. False: nobody waits for that job."""
        if (watch := self._watches.get(job)) is None:
            return False
        watch.alive()
        return True

    def receive(self, job: str, attempt: int, answer: Verdicts | Broken) -> Fate:
        """An answer, wherever it comes from: the first that makes sense is the outcome."""
        stored = self._book.job(job)
        if stored is None:
            return Fate.UNKNOWN
        if stored.is_open and isinstance(answer, Verdicts):
            answer = self._checked(stored, answer)
        if isinstance(answer, Broken):
            return self._broke(stored, attempt, answer)
        played = self._played(stored) if stored.is_open else []
        outcomes = [
            outcome_of(verdict, member.episode, self._reward_range)
            for verdict, member in zip(answer.each, played, strict=False)
        ]
        said = verdicts_json(answer.each)
        fate = self._book.settle(job, attempt, outcomes, said=said)
        self.wake(job)
        return fate

    def _checked(self, job: GradeJob, answer: Verdicts) -> Verdicts | Broken:
        if answer.job not in (None, job.id):
            why = f"nonsense: the answer to {answer.job!r:.100}; `id` must be the request's, or left out"
            return Broken(reason=why, is_retryable=False)
        if len(answer.each) == len(job.members):
            return answer
        why = f"nonsense: {len(answer.each)} scores for {len(job.members)} episodes"
        return Broken(reason=why, is_retryable=False)

    def _broke(self, job: GradeJob, attempt: int, answer: Broken) -> Fate:
        """A try came to nothing. Of one that is over anyway it is only noted."""
        if not job.is_open or attempt != job.attempt:
            self._book.note(job.id, attempt, Fate.BROKEN, answer.reason)
            return Fate.BROKEN
        is_last = not answer.is_retryable or job.attempt + 1 >= self.limits.max_attempts
        self._book.broke(job, answer.reason, Ungraded(reason=answer.reason) if is_last else None)
        self.wake(job.id)
        return Fate.BROKEN

    def _played(self, job: GradeJob) -> list[Played]:
        found = [self._book.played(key) for key in job.members]
        assert all(found), f"an open job of episodes that do not wait for a grade: {job}"
        return [each for each in found if each is not None]

    async def _tries(self, name: str, task: Task) -> None:
        """Try after try, until the job is over."""
        watch = self._watches[name]
        watch.begin()
        while (job := self._job(name)).is_open:
            handle = await self._submitted(job, task, watch)
            if handle is not None:
                answer = await self._awaited(job, handle, watch)
                if answer is not None:
                    self.receive(name, job.attempt, answer)
                await self._calls.release(handle)
            if (after := self._job(name)).is_open:
                await watch.rest(after.attempt)

    def _job(self, name: str) -> GradeJob:
        found = self._book.job(name)
        assert found is not None, f"the job {name} was opened"
        return found

    def _is_due(self, job: GradeJob) -> bool:
        """Whether the job still waits for the answer of this try."""
        now = self._job(job.id)
        return now.is_open and now.attempt == job.attempt

    async def _submitted(self, job: GradeJob, task: Task, watch: Watch) -> str | None:
        """The handle of the try under way, which a restart may have found; None where the try is over."""
        if job.handle is not None and (self._adapter.is_durable or job.id in self._mine):
            return job.handle
        handle = await self._accepted(job, task, watch)
        if handle is None:
            return None
        if not self._book.submitted(job, handle):  # its answer was faster than the word that it was taken
            await self._calls.release(handle)
            return None
        self._mine.add(job.id)
        return handle

    async def _accepted(self, job: GradeJob, task: Task, watch: Watch) -> str | None:
        """Submit until somebody takes it, always with the same key: whether we were heard is not known."""
        failures = 0
        while self._is_due(job):
            if watch.left_s <= 0:
                self._broke(job, job.attempt, watch.out_of_time())
                return None
            try:
                async with self._submissions:
                    if self._is_due(job):
                        return await self._calls.submit(self._request(job, task, watch))
            except EpisodeFailed as error:
                if self._is_due(job) and (not error.failed.retryable or watch.left_s <= 0):
                    self._broke(job, job.attempt, Broken(reason=crash(error.failed), is_retryable=False))
                    return None
                watch.trouble = trouble(error)
            failures += 1
            await watch.rest(failures)
        return None

    def _request(self, job: GradeJob, task: Task, watch: Watch) -> GradeRequest:
        return GradeRequest(
            job=job.id,
            attempt=job.attempt,
            task=task,
            episodes=tuple(played.episode for played in self._played(job)),
            limit_s=max(min(self.limits.attempt_s, watch.left_s), 0.0),
        )

    async def _awaited(self, job: GradeJob, handle: str, watch: Watch) -> Verdicts | Broken | None:
        """The answer to a try; None where it came another way. Looks before it asks for the time: what was
        finished while nobody watched counts."""
        watch.start()
        while True:
            watch.news.clear()
            answer = await self._calls.poll(handle, watch)
            if not self._is_due(job):
                return None
            if not isinstance(answer, Running):
                return answer
            watch.heard(answer)
            if (over := watch.over()) is not None:
                return over
            await watch.pause(self._adapter.poll_s, len(self._watches))
