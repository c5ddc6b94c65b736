"""The clocks of a job that somebody waits for: when to look again, and when a try is over."""

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass, field

from ...sandboxes.backoff import backoff_s
from .job import Broken, GradeLimits, Running

MAX_POLL_S = 60.0
MAX_POLLS_PER_S = 25.0
"""Of all jobs together: at a fifth of a millisecond each they stay under 1 % of a processor."""


@dataclass(slots=True)
class Watch:
    """`begin` starts the clock of all tries, `start` that of one try."""

    limits: GradeLimits
    news: asyncio.Event = field(default_factory=asyncio.Event)
    until: float = 0.0
    """The end of all tries; this and the others are seconds of `time.monotonic`."""
    started: float = 0.0
    alive_at: float = 0.0
    beat: str | None = None
    trouble: str = ""
    """Why the last call came to nothing."""

    def begin(self) -> None:
        self.until = time.monotonic() + self.limits.total_s

    def start(self) -> None:
        """A try has been taken: it has its own time, and its own signs of life."""
        self.started = self.alive_at = time.monotonic()
        self.beat, self.trouble = None, ""

    @property
    def left_s(self) -> float:
        """Of the time of all tries; 0 or less: it is over."""
        return self.until - time.monotonic()

    def alive(self) -> None:
        """A sign of life was brought."""
        self.alive_at = time.monotonic()

    def heard(self, answer: Running) -> None:
        """A beat is a sign of life when it is another one."""
        if answer.beat is not None and answer.beat != self.beat:
            self.alive_at, self.beat = time.monotonic(), answer.beat

    def over(self) -> Broken | None:
        """Why a try that gives no answer is over."""
        limits, now = self.limits, time.monotonic()
        if now >= self.until:
            return self.out_of_time()
        if now >= self.started + limits.attempt_s:
            return Broken(reason=f"timeout: the grader took over {limits.attempt_s:g} s{self._last}")
        if limits.heartbeat_s is not None and now >= self.alive_at + limits.heartbeat_s:
            return Broken(reason=f"lost: the grader gave no sign of life for {limits.heartbeat_s:g} s")
        return None

    def out_of_time(self) -> Broken:
        """All tries together took too long."""
        why = f"timeout: all tries together took over {self.limits.total_s:g} s{self._last}"
        return Broken(reason=why, is_retryable=False)

    @property
    def _last(self) -> str:
        return f"; the last trouble: {self.trouble}" if self.trouble else ""

    async def pause(self, poll_s: float | None, num_jobs: int) -> None:
        """Until there is news, a limit, or time for another look: rarer with the age of the try and the
        number of jobs, unless `poll_s` says how often."""
        limits, now = self.limits, time.monotonic()
        if poll_s is None:
            slowly_s = max((now - self.started) / 10, num_jobs / MAX_POLLS_PER_S)
            poll_s = max(limits.poll_s, min(slowly_s, MAX_POLL_S))
        ends = [self.until, self.started + limits.attempt_s]
        if limits.heartbeat_s is not None:
            ends.append(self.alive_at + limits.heartbeat_s)
        await self._news(min(poll_s, *(end - now for end in ends)))

    async def rest(self, failures: int) -> None:
        """Before the next try; the end of the job ends it."""
        self.news.clear()
        await self._news(min(backoff_s(self.limits.retry_s, failures), self.left_s))

    async def _news(self, seconds: float) -> None:
        """Wait for news, at most so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(max(seconds, 0.0)):
                await self.news.wait()
