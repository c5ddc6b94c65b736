"""Worker processes for the functions that people bring."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

from ...crew import Crew
from ...worker import Worker, WorkerDied
from .reply import RewardFailed

P = ParamSpec("P")
T = TypeVar("T")


class Workers:
    """The processes of one function. No wall is around them: they may do what this process may do.

    A call that takes too long ends with its process, and so does one that nobody waits for any more.
    """

    def __init__(
        self,
        who: str,
        load: Callable[[Worker], Awaitable[object]],
        *,
        most: int,
        timeout_s: float | None = None,
    ) -> None:
        """`who`: as messages name the function. `load`: what a process does before its first call.
        `timeout_s`: of one call, from when a process is there for it; None: of whoever waits."""
        self._who, self._timeout_s = who, timeout_s
        self._crew = Crew(lambda worker: self._limited(load(worker)), most=most)

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `function` returns or raises in a process. Raises `RewardFailed` where there is no answer."""
        try:
            async with self._crew.worker() as worker:
                return await self._limited(worker.call(function, *args, **kwargs))
        except WorkerDied as died:
            ended = "took its process down" if died.has_started else "cannot run"
            raise RewardFailed(f"{self._who} {ended}: {died}") from died

    async def _limited(self, answer: Awaitable[T]) -> T:
        limit = asyncio.timeout(self._timeout_s)
        try:
            async with limit:
                return await answer
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise too_slow(self._who, self._timeout_s or 0.0) from error


def too_slow(who: str, timeout_s: float, more: str = "") -> RewardFailed:
    """What a call is that had to be ended."""
    return RewardFailed(f"{who} gave no reply within {timeout_s:g} s{more}; mend it, or raise timeout_s")
