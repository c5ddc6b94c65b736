"""The adapter as the stage calls it: no call waits for a grade, and every try that was taken is released."""

import asyncio
from collections.abc import Awaitable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from ...envs.errors import EpisodeFailed, boundary
from ...envs.graders.grading import crash
from .book import GradeBook
from .job import Answer, Broken, GradeAdapter, GradeRequest, Running
from .watch import Watch

T = TypeVar("T")

CALL_S = 60.0
"""Of one call to the adapter."""


class Calls:
    """Calls that end in `CALL_S`; what they raise is an `EpisodeFailed`."""

    def __init__(self, adapter: GradeAdapter, book: GradeBook) -> None:
        self._adapter, self._book = adapter, book
        self._releases: set[asyncio.Task[None]] = set()

    async def finish(self) -> None:
        """Wait for the releases that are under way."""
        await asyncio.gather(*self._releases)

    async def submit(self, request: GradeRequest) -> str:
        """The handle. Nobody may wait for it any more: then the try is released as soon as there is one."""
        submission = asyncio.create_task(self._called(self._adapter.submit(request)))
        try:
            return await asyncio.shield(submission)
        except asyncio.CancelledError:
            job = self._book.job(request.job)
            if job is not None and job.is_open:  # the run ends: the next start submits the same key
                submission.cancel()
            else:
                self._soon(self._release_started(submission))
            raise

    async def poll(self, handle: str, watch: Watch) -> Answer:
        """An answer; of a grader that cannot be reached there is no news, and `watch` knows the trouble."""
        try:
            answer = await self._called(self._adapter.poll(handle))
        except EpisodeFailed as error:
            if not error.failed.retryable:
                return Broken(reason=crash(error.failed), is_retryable=False)
            watch.trouble = trouble(error)
            return Running()
        watch.trouble = ""
        return answer

    async def release(self, handle: str) -> None:
        """Tell the adapter that a try is over. One that cannot be told finds out by itself."""
        with suppress(EpisodeFailed):
            await self._called(self._adapter.release(handle))
        self._book.released(handle)

    def release_soon(self, handle: str) -> None:
        """`finish` waits for it."""
        self._soon(self.release(handle))

    async def _release_started(self, submission: "asyncio.Task[str]") -> None:
        with suppress(EpisodeFailed):
            await self.release(await submission)

    def _soon(self, work: Coroutine[Any, Any, None]) -> None:
        release = asyncio.create_task(work)
        self._releases.add(release)
        release.add_done_callback(self._releases.discard)

    async def _called(self, call: Awaitable[T]) -> T:
        with boundary("grade"):
            async with asyncio.timeout(CALL_S):
                return await call


def trouble(error: EpisodeFailed) -> str:
    """What went wrong, without the kind of failure that all have.

    >>> trouble(EpisodeFailed(Failed(stage="grade", cause="OSError", retryable=True, message="gone")))
    'OSError: gone'
    """
    return crash(error.failed).removeprefix("crash: ")
