"""Many episodes at once: wanted groups in, finished groups out.

    GroupRequest ──> places ──AioPool──> Rollout ──> Ledger ──> Group
                     (bounded)           (retried,   (kept)
                                         refilled)      └──> Desk ──> Grading ──┘   where grading is detached

What the ledger already holds is not played again: collecting after a crash is collecting. Only a sample
whose last try failed for a passing reason gets new tries, so that an outage costs nothing but time. A sample
that waits for its grade holds no slot of the pool, and is not played again either. Where a request asks for
it, an episode without a number is replaced by another rollout (`places.py`).
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from typing import TypeVar

from asyncio_pool import AioPool

from ..envs import Task
from ..sandboxes.backoff import backoff_s
from .engine import PolicyVersion
from .grading.desk import Desk
from .grading.stage import Grading
from .ledger import Ledger
from .places import GroupRequest, Places, first_try, is_retryable, next_try
from .trajectory import EpisodeKey, Group, Played, Trajectory

T = TypeVar("T")

_Place = tuple[GroupRequest, int]
"""Of a group, by its first sample."""
_End = tuple[GroupRequest, Trajectory] | BaseException
"""What `stream` waits for: a sample that has ended, or a crash of ours."""


class Collector:
    """Plays groups with at most `max_in_flight` episodes at a time."""

    def __init__(
        self,
        rollout: Callable[[EpisodeKey, Task, PolicyVersion], Awaitable[Trajectory | Played]],
        ledger: Ledger,
        *,
        grading: Grading | None = None,
        max_in_flight: int = 128,
        max_attempts: int = 3,
        retry_s: float = 2.0,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        on_episode: Callable[[Trajectory], None] | None = None,
        on_pause: Callable[[int], None] | None = None,
        on_stuck: Callable[[float], None] | None = None,
        stuck_after_s: float = 300.0,
    ) -> None:
        """`grading`: the stage for what `rollout` leaves without a grade.

        `max_attempts`: tries of a sample in one start while its failure is retryable; each is on record.

        `retry_s`: the pause before the second try, with jitter; it doubles from try to try. `sleep` waits for
        it. `on_pause` gets the number of samples in such a pause whenever it changes.

        `on_stuck` gets the seconds in which no sample has ended, each time that `stuck_after_s` are over.
        """
        self._rollout, self._ledger, self._on_episode = rollout, ledger, on_episode
        self._grading = grading
        self._places = Places(ledger, is_graded_together=grading is not None and grading.is_of_groups)
        self._max_in_flight, self._max_attempts = max_in_flight, max_attempts
        self._retry_s, self._sleep, self._on_pause, self._num_pausing = retry_s, sleep, on_pause, 0
        self._on_stuck, self._stuck_after_s = on_stuck, stuck_after_s

    async def collect(self, requests: Sequence[GroupRequest]) -> list[Group]:
        """All groups, in the order of the requests."""
        position = {id(request): at for at, request in enumerate(requests)}
        found: dict[int, Group] = {}
        async with aclosing(self.stream(requests)) as groups:
            async for request, group in groups:
                found[position[id(request)]] = group
        return [found[at] for at in range(len(requests))]

    async def stream(
        self, requests: Sequence[GroupRequest]
    ) -> AsyncGenerator[tuple[GroupRequest, Group], None]:
        """Each group as its last sample ends. Leaving the loop early cancels what is in flight."""
        ended: asyncio.Queue[_End] = asyncio.Queue()
        again: asyncio.Queue[_Place] = asyncio.Queue()
        pool, leaving = AioPool(size=self._max_in_flight), asyncio.Event()
        leave = self._leaver(ended, again)
        desk = None if self._grading is None else Desk(self._grading, leave, ended.put_nowait)
        feeder = asyncio.create_task(self._feed(pool, requests, again, desk, ended, leaving))
        feeder.add_done_callback(lambda feed: _tell_crash(feed, ended))
        members: defaultdict[int, list[Trajectory]] = defaultdict(list)
        try:
            for _ in range(sum(request.num_samples for request in requests)):
                item = await self._next(ended)
                if isinstance(item, BaseException):
                    raise _crash(item)
                request, trajectory = item
                members[id(request)].append(trajectory)
                if len(members[id(request)]) == request.num_samples:
                    yield request, self._places.group(request, members.pop(id(request)))
        finally:
            leaving.set()
            feeder.cancel()
            await asyncio.gather(feeder, return_exceptions=True)
            await asyncio.sleep(0)  # a pool task that was cancelled before its first step would never end
            await pool.cancel()
            if desk is not None:
                await desk.close()

    def _leaver(
        self, ended: asyncio.Queue[_End], again: asyncio.Queue[_Place]
    ) -> Callable[[GroupRequest, EpisodeKey], bool]:
        def leave(request: GroupRequest, key: EpisodeKey) -> bool:
            graded = self._ledger.finished(key)
            assert graded is not None, f"{key} left the desk without a grade"
            if self._on_episode is not None:
                self._on_episode(graded)
            if is_replaced := self._places.replacement(request, graded) is not None:
                again.put_nowait((request, request.place_of(key)))
            else:
                ended.put_nowait((request, graded))
            return is_replaced

        return leave

    async def _next(self, ended: asyncio.Queue[T]) -> T:
        """The next end; while none comes, say so again and again."""
        waited_s = 0.0
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._stuck_after_s):
                    return await ended.get()
            waited_s += self._stuck_after_s
            if self._on_stuck is not None:
                self._on_stuck(waited_s)

    async def _feed(
        self,
        pool: AioPool,
        requests: Sequence[GroupRequest],
        again: asyncio.Queue[_Place],
        desk: Desk | None,
        ended: asyncio.Queue[_End],
        leaving: asyncio.Event,
    ) -> None:
        """Issue rollouts as the pool has room, until it is cancelled; those first that complete a group."""

        async def fill(request: GroupRequest, place: int) -> None:
            try:
                member = await self._member(request, place)
                if isinstance(member, Trajectory):
                    ended.put_nowait((request, member))
                else:
                    assert desk is not None, f"{member.key} waits for a grade, and nobody gives any"
                if desk is not None:
                    desk.hand_in(request, member)
            except BaseException as error:  # every kind: the pool would swallow it, `stream` raises it
                ended.put_nowait(error)
                if isinstance(error, asyncio.CancelledError):
                    raise

        todo = deque(self._in_order(requests))
        while not leaving.is_set():
            place = todo.popleft() if todo and again.empty() else await again.get()
            spawned = await pool.spawn(fill(*place))
            if leaving.is_set():  # AioPool swallows a cancellation that meets it in `spawn`
                spawned.add_done_callback(lambda future: future.cancelled() or future.exception())

    def _in_order(self, requests: Sequence[GroupRequest]) -> list[_Place]:
        """Every place: those first that only wait for their grade: no play of others delays them."""
        places = [(request, place) for request in requests for place in request.places]
        splits = {request.split for request in requests}
        waiting = {first_try(key) for split in splits for key in self._ledger.grades.waiting(split)}
        return sorted(places, key=lambda each: waiting.isdisjoint(each[0].rollouts(each[1])))

    async def _member(self, request: GroupRequest, place: int) -> Trajectory | Played:
        """Who stands in a place: by the run file, or the first with a number of those that are tried."""
        key, *_ = request.rollouts(place)
        while True:
            member = await self._sample(request, key)
            if isinstance(member, Played) or (other := self._places.replacement(request, member)) is None:
                return member
            key = other

    async def _sample(self, request: GroupRequest, key: EpisodeKey) -> Trajectory | Played:
        """One rollout as the run file has it, or tried while its failure is retryable."""
        kept, key = self._places.last_try(key)
        if kept is not None and not is_retryable(kept):
            return kept
        if (played := self._ledger.grades.played(key)) is not None:
            return played
        if kept is not None and self._places.is_over(request, kept):
            return kept
        failures = 0
        while True:
            trajectory = await self._episode(key, request)
            failures, key = failures + 1, next_try(key)
            if isinstance(trajectory, Played) or not is_retryable(trajectory):
                return trajectory
            if failures == self._max_attempts:
                return trajectory
            await self._pause(failures)

    async def _episode(self, key: EpisodeKey, request: GroupRequest) -> Trajectory | Played:
        """A fresh episode."""
        self._ledger.issue(key, request.version)
        trajectory = await self._rollout(key, request.task, request.version)
        if isinstance(trajectory, Played):
            self._ledger.grades.keep_played(trajectory)
            return trajectory
        self._ledger.finish(trajectory)
        if self._on_episode is not None:
            self._on_episode(trajectory)
        return trajectory

    async def _pause(self, failures: int) -> None:
        """Keeps the sample's place in the pool: under an outage, fewer and fewer new samples start."""
        self._count_pausing(1)
        try:
            await self._sleep(backoff_s(self._retry_s, failures))
        finally:
            self._count_pausing(-1)

    def _count_pausing(self, change: int) -> None:
        self._num_pausing += change
        if self._on_pause is not None:
            self._on_pause(self._num_pausing)


def _tell_crash(feeder: asyncio.Task[None], ended: asyncio.Queue[_End]) -> None:
    """`stream` cancels the feeder only when it no longer looks."""
    if not feeder.cancelled() and (error := feeder.exception()) is not None:
        ended.put_nowait(error)


def _crash(error: BaseException) -> BaseException:
    """As `stream` may raise it: what would say that somebody cancelled or closed `stream` is another's."""
    if not isinstance(error, asyncio.CancelledError | GeneratorExit):
        return error
    crash = RuntimeError(f"a sample ended with {type(error).__name__}, and nobody had asked it to")
    crash.__cause__ = error
    return crash


__all__ = ["Collector", "GroupRequest", "is_retryable"]
