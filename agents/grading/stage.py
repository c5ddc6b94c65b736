"""The stage between a played episode and its outcome.

    grade(members) ──open──> job ──room──> submit ──handle──> poll, or a callback ──settle──> outcomes
                              │               │                  │
                              └────────── run file ──────────────┘      a try that breaks: a pause, and again

Everything that a restart needs is in the run file before anybody waits for it: `grade` after kill -9 is
`grade`. An outcome is written once, by `GradeBook.settle`; what comes later is on record and changes nothing.
"""

import asyncio
import time
from collections.abc import Awaitable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ...envs import Task, Ungraded
from ...envs.backoff import backoff_s
from ...envs.errors import EpisodeFailed, boundary
from ...envs.graders.grading import crash, outcome_of
from ..ledger import Ledger
from ..trajectory import EpisodeKey, Played
from .job import Answer, Broken, Fate, GradeAdapter, GradeJob, GradeLimits, GradeRequest, Running, Verdicts
from .wire import verdicts_json

T = TypeVar("T")

CALL_S = 60.0
"""Of one call to the adapter: none of them waits for a grade."""
MAX_POLL_S = 60.0
MAX_POLLS_PER_S = 25.0
"""Of all jobs together: at a fifth of a millisecond each they stay under 1 % of a processor."""
MAX_CALLS = 16
"""Submissions at one time: each holds whole episodes in memory."""


@dataclass(slots=True)
class _Watch:
    """A job that somebody waits for."""

    news: asyncio.Event = field(default_factory=asyncio.Event)
    alive_at: float = 0.0
    beat: str | None = None
    trouble: str = ""
    """Why the last call came to nothing."""


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
        self._ledger, self._book, self._adapter = ledger, ledger.grades, adapter
        self._reward_range = reward_range
        self._room = asyncio.Semaphore(self.limits.max_outstanding)
        self._submissions = asyncio.Semaphore(MAX_CALLS)
        self._watches: dict[str, _Watch] = {}
        self._mine: set[str] = set()
        self._releases: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "Grading":
        await self._adapter.open(self)
        for handle in self._book.leftovers():  # of a start that was killed before it could say so
            self._release_soon(handle)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await asyncio.gather(*self._releases)
        await self._adapter.close()

    @property
    def num_outstanding(self) -> int:
        """Jobs that somebody waits for."""
        return len(self._watches)

    async def grade(self, members: Sequence[EpisodeKey], task: Task) -> None:
        """Returns when every member, played and in the run file, has its outcome there."""
        job = self._book.open(members)
        self._watches[job.id] = _Watch()
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
            self._release_soon(job.handle)

    def wake(self, job: str) -> None:
        """Something happened to a job: look at it now."""
        if (watch := self._watches.get(job)) is not None:
            watch.news.set()

    def beat(self, job: str) -> bool:
        """A sign of life. False: nobody waits for that job."""
        if (watch := self._watches.get(job)) is None:
            return False
        watch.alive_at = time.monotonic()
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
        until = time.monotonic() + self.limits.total_s
        while (job := self._job(name)).is_open:
            handle = await self._submitted(job, task, until)
            if handle is not None:
                answer = await self._watch(job, handle, until)
                if answer is not None:
                    self.receive(name, job.attempt, answer)
                await self._release(handle)
            if (after := self._job(name)).is_open:
                await self._rest(name, after.attempt, until)

    def _job(self, name: str) -> GradeJob:
        found = self._book.job(name)
        assert found is not None, f"the job {name} was opened"
        return found

    def _is_due(self, job: GradeJob) -> bool:
        """Whether the job still waits for the answer of this try."""
        now = self._job(job.id)
        return now.is_open and now.attempt == job.attempt

    async def _submitted(self, job: GradeJob, task: Task, until: float) -> str | None:
        """The handle of the try under way, which a restart may have found; None where the try is over."""
        if job.handle is not None and (self._adapter.is_durable or job.id in self._mine):
            return job.handle
        handle = await self._accepted(job, task, until)
        if handle is None:
            return None
        if not self._book.submitted(job, handle):  # its answer was faster than the word that it was taken
            await self._release(handle)
            return None
        self._mine.add(job.id)
        return handle

    async def _accepted(self, job: GradeJob, task: Task, until: float) -> str | None:
        """Submit until somebody takes it, always with the same key: whether we were heard is not known."""
        failures = 0
        while self._is_due(job):
            if time.monotonic() >= until:
                self._broke(job, job.attempt, self._out_of_time(self._watches[job.id].trouble))
                return None
            try:
                async with self._submissions:
                    if self._is_due(job):
                        return await self._taken(job, self._request(job, task, until))
            except EpisodeFailed as error:
                if self._is_due(job) and (not error.failed.retryable or time.monotonic() >= until):
                    self._broke(job, job.attempt, Broken(reason=crash(error.failed), is_retryable=False))
                    return None
                self._watches[job.id].trouble = crash(error.failed).removeprefix("crash: ")
            failures += 1
            await self._rest(job.id, failures, until)
        return None

    async def _taken(self, job: GradeJob, request: GradeRequest) -> str:
        """The handle. Nobody may wait for it any more: then the try is released as soon as there is one."""
        submission = asyncio.create_task(self._called(self._adapter.submit(request)))
        try:
            return await asyncio.shield(submission)
        except asyncio.CancelledError:
            if self._job(job.id).is_open:  # the run ends: the next start submits the same key
                submission.cancel()
            else:
                self._soon(self._release_started(submission))
            raise

    async def _release_started(self, submission: "asyncio.Task[str]") -> None:
        with suppress(EpisodeFailed):
            await self._release(await submission)

    def _request(self, job: GradeJob, task: Task, until: float) -> GradeRequest:
        return GradeRequest(
            job=job.id,
            attempt=job.attempt,
            task=task,
            episodes=tuple(played.episode for played in self._played(job)),
            limit_s=max(min(self.limits.attempt_s, until - time.monotonic()), 0.0),
        )

    async def _watch(self, job: GradeJob, handle: str, until: float) -> Verdicts | Broken | None:
        """The answer to a try; None where it came another way. Looks before it asks for the time: what was
        finished while nobody watched counts."""
        watch, started = self._watches[job.id], time.monotonic()
        watch.alive_at, watch.beat, watch.trouble = started, None, ""
        while True:
            watch.news.clear()
            answer = await self._polled(handle, watch)
            if not self._is_due(job):
                return None
            if not isinstance(answer, Running):
                return answer
            now = time.monotonic()
            if answer.beat is not None and answer.beat != watch.beat:
                watch.alive_at, watch.beat = now, answer.beat
            if (over := self._over(now, started, watch, until)) is not None:
                return over
            await self._pause(watch, started, until)

    def _over(self, now: float, started: float, watch: _Watch, until: float) -> Broken | None:
        """Why a try that gives no answer is over."""
        limits = self.limits
        if now >= until:
            return self._out_of_time(watch.trouble)
        if now >= started + limits.attempt_s:
            return Broken(
                reason=f"timeout: the grader took over {limits.attempt_s:g} s{_last(watch.trouble)}"
            )
        if limits.heartbeat_s is not None and now >= watch.alive_at + limits.heartbeat_s:
            return Broken(reason=f"lost: the grader gave no sign of life for {limits.heartbeat_s:g} s")
        return None

    def _out_of_time(self, trouble: str) -> Broken:
        why = f"timeout: all tries together took over {self.limits.total_s:g} s{_last(trouble)}"
        return Broken(reason=why, is_retryable=False)

    async def _pause(self, watch: _Watch, started: float, until: float) -> None:
        """Until there is news, a limit, or time for another look."""
        limits, now = self.limits, time.monotonic()
        pause_s = self._adapter.poll_s
        if pause_s is None:
            slowly_s = max((now - started) / 10, len(self._watches) / MAX_POLLS_PER_S)
            pause_s = max(limits.poll_s, min(slowly_s, MAX_POLL_S))
        ends = [until, started + limits.attempt_s]
        if limits.heartbeat_s is not None:
            ends.append(watch.alive_at + limits.heartbeat_s)
        await _news(watch, min(pause_s, *(end - now for end in ends)))

    async def _rest(self, name: str, failures: int, until: float) -> None:
        """Before the next try; the end of the job ends it."""
        watch = self._watches[name]
        watch.news.clear()
        await _news(watch, min(backoff_s(self.limits.retry_s, failures), until - time.monotonic()))

    async def _polled(self, handle: str, watch: _Watch) -> Answer:
        """An answer; of a grader that cannot be reached there is no news."""
        try:
            answer = await self._called(self._adapter.poll(handle))
            watch.trouble = ""
            return answer
        except EpisodeFailed as error:
            if error.failed.retryable:
                watch.trouble = crash(error.failed).removeprefix("crash: ")
                return Running()
            return Broken(reason=crash(error.failed), is_retryable=False)

    async def _release(self, handle: str) -> None:
        """Tell the adapter that a try is over. One that cannot be told finds out by itself."""
        with suppress(EpisodeFailed):
            await self._called(self._adapter.release(handle))
        self._book.released(handle)

    def _release_soon(self, handle: str) -> None:
        self._soon(self._release(handle))

    def _soon(self, work: Coroutine[Any, Any, None]) -> None:
        release = asyncio.create_task(work)
        self._releases.add(release)
        release.add_done_callback(self._releases.discard)

    async def _called(self, call: Awaitable[T]) -> T:
        with boundary("grade"):
            async with asyncio.timeout(CALL_S):
                return await call


def _last(trouble: str) -> str:
    return f"; the last trouble: {trouble}" if trouble else ""


async def _news(watch: _Watch, seconds: float) -> None:
    """Wait for news, at most so long."""
    with suppress(TimeoutError):
        async with asyncio.timeout(max(seconds, 0.0)):
            await watch.news.wait()
