"""Sandboxes opened ahead of their use, leased in the order of asking, each to one user only.

    lease() ──> queue ───────────────┐
                                     v
    open ──> starting ──> warm ──> leased ──> closing      one place from the start to the end of closing
                            └─ checked on the way: what died on the shelf is replaced

What a user left behind goes with its sandbox, whose end nobody waits for but the next in the queue. How many
start at one time follows from how they fare (`StartLimit`).
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from ._start_limit import StartLimit
from .backoff import backoff_s
from .errors import SandboxError, SandboxLost
from .sandbox import Sandbox, SandboxSpec

_ATTEMPTS = 5
"""Tries of one start while it fails for passing reasons."""
_CHECK_S = 5.0
"""A warm sandbox that is silent for so long counts as dead."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolStats:
    """A pool at one moment, and what it did so far."""

    num_waiting: int
    """Leases in the queue."""
    num_starting: int
    num_warm: int
    """Sandboxes that nobody has used yet, those on their way to a lease included."""
    num_leased: int
    num_closing: int
    start_limit: float
    """How many may be starting at one time (`StartLimit`)."""
    num_served: int
    """Leases that got their sandbox."""
    num_given_up: int
    """Leases that left the queue without one: cancelled, or the start failed."""
    num_opened: int
    num_failed_starts: int
    """Each try counts."""
    num_replaced: int
    """Warm sandboxes that had died before anybody used them."""
    queue_s: float
    """Seconds in the queue of all served leases together."""
    max_queue_s: float


async def _create(spec: SandboxSpec) -> Sandbox:
    from .backends import create_sandbox  # what a sandbox is made of is loaded with the first one

    return await create_sandbox(spec)


class Lease:
    """One turn at a fresh sandbox; made by `Pool.lease`."""

    def __init__(
        self, take: Callable[["Lease"], Awaitable[Sandbox]], give_back: Callable[[Sandbox], None]
    ) -> None:
        self._take, self._give_back = take, give_back
        self._box: Sandbox | None = None
        self.queue_s = 0.0
        """Seconds between asking and getting; 0.0 before."""

    async def __aenter__(self) -> Sandbox:
        if self._box is not None:
            raise ValueError("a lease is for one block; ask the pool for another")
        self._box = await self._take(self)
        return self._box

    async def __aexit__(self, *_: object) -> None:
        assert self._box is not None, "entered before"
        self._give_back(self._box)


class Pool:
    """At most `size` sandboxes of one spec, of which up to `warm` stand ready.

    >>> async with Pool(SandboxSpec(memory_mb=256), size=8, warm=2) as pool:
    ...     async with pool.lease() as box:
    ...         result = await box.run(["python3", "-c", "print(6 * 7)"])

    A start that fails for a passing reason (`SandboxLost`) is tried again after a pause; `SandboxUnavailable`
    is raised to the lease at once. Commands are never repeated: a lease whose sandbox dies sees the error.
    Leaving the block closes every sandbox, those in use too. A pool belongs to one event loop.
    """

    def __init__(
        self,
        spec: SandboxSpec | None = None,
        *,
        size: int = 8,
        warm: int = 2,
        open: Callable[[SandboxSpec], Awaitable[Sandbox]] = _create,
    ) -> None:
        if size < 1 or warm < 0:
            raise ValueError(f"a pool needs size of 1 or more and warm of 0 or more; got {size} and {warm}")
        self.spec = spec or SandboxSpec()
        self.size = size
        self.warm = min(warm, size)
        self._open = open
        self._limit = StartLimit(size)
        self._is_open = False
        self._is_failing = False
        self._crashes: list[BaseException] = []
        # In the order of asking.
        self._waiting: dict[asyncio.Future[Sandbox], None] = {}
        self._shelf = deque[Sandbox]()
        self._leased = set[Sandbox]()
        self._starting = set[asyncio.Task[None]]()
        self._checking = set[asyncio.Task[None]]()
        self._closing = set[asyncio.Task[None]]()
        self._num_served = self._num_given_up = 0
        self._num_opened = self._num_failed_starts = self._num_replaced = 0
        self._queue_s = self._max_queue_s = 0.0

    async def __aenter__(self) -> "Pool":
        self._is_open = True
        self._advance()
        return self

    async def __aexit__(self, *_: object) -> None:
        await _to_its_end(self._close())
        if self._crashes:
            raise BaseExceptionGroup("sandboxes of a pool crashed when they were closed", self._crashes)

    def lease(self) -> Lease:
        """A fresh sandbox for the length of a block; `Lease.queue_s` says how long it was waited for."""
        return Lease(self._take, self._give_back)

    def stats(self) -> PoolStats:
        return PoolStats(
            num_waiting=len(self._waiting),
            num_starting=len(self._starting),
            num_warm=len(self._shelf) + len(self._checking),
            num_leased=len(self._leased),
            num_closing=len(self._closing),
            start_limit=self._limit.limit,
            num_served=self._num_served,
            num_given_up=self._num_given_up,
            num_opened=self._num_opened,
            num_failed_starts=self._num_failed_starts,
            num_replaced=self._num_replaced,
            queue_s=self._queue_s,
            max_queue_s=self._max_queue_s,
        )

    # ------------------------------------------------------------ a lease's side

    async def _take(self, lease: Lease) -> Sandbox:
        """Queue for a sandbox. A caller that is cancelled here has taken nothing."""
        if not self._is_open:
            raise SandboxError("the pool is closed: lease inside its `async with` block")
        asked = time.monotonic()
        place: asyncio.Future[Sandbox] = asyncio.get_running_loop().create_future()
        self._waiting[place] = None
        self._advance()
        try:
            box = await place
        except BaseException:
            self._num_given_up += 1
            self._waiting.pop(place, None)
            if place.done() and not place.cancelled() and place.exception() is None:
                self._take_back(place.result())
            raise
        lease.queue_s = time.monotonic() - asked
        self._num_served += 1
        self._queue_s += lease.queue_s
        self._max_queue_s = max(self._max_queue_s, lease.queue_s)
        return box

    def _take_back(self, box: Sandbox) -> None:
        """Its taker was cancelled in the moment in which it was served: nobody has seen this sandbox."""
        if box in self._leased:
            self._leased.discard(box)
            self._hand(box)

    def _give_back(self, box: Sandbox) -> None:
        if box in self._leased:  # or the pool has closed it
            self._leased.discard(box)
            self._retire(box)

    # ------------------------------------------------------------ what goes on behind

    def _advance(self) -> None:
        """Begin whatever has become possible; called after every change."""
        while self._shelf and len(self._checking) < len(self._waiting):
            self._spawn(self._checking, self._check(self._shelf.popleft()))
        while self._wants_another() and self._limit.has_room(len(self._starting)):
            self._spawn(self._starting, self._start())

    def _wants_another(self) -> bool:
        num_coming = len(self._shelf) + len(self._checking) + len(self._starting)
        # While starts fail, only who waits is worth another one.
        num_wanted = len(self._waiting) + (0 if self._is_failing else self.warm)
        num_alive = num_coming + len(self._leased) + len(self._closing)
        return self._is_open and num_coming < num_wanted and num_alive < self.size

    async def _start(self) -> None:
        """Open a sandbox for whoever is first in the queue by then."""
        try:
            box = await self._opened()
        except Exception as error:  # whatever it is, it is the asker's to see
            self._is_failing = True
            if (place := self._first()) is not None:
                place.set_exception(error)
            return
        self._is_failing = False
        self._num_opened += 1
        self._hand(box)

    async def _opened(self) -> Sandbox:
        attempt = 0
        while True:
            attempt += 1
            begun = self._limit.begin(len(self._starting))
            try:
                box = await self._open(self.spec)
            except Exception as error:
                self._limit.fail(begun)
                self._num_failed_starts += 1
                if attempt == _ATTEMPTS or not isinstance(error, SandboxLost):
                    raise
            else:
                self._limit.succeed(begun)
                return box
            # It keeps its place among the starts: under an outage, fewer and fewer are tried.
            await asyncio.sleep(backoff_s(0.1, attempt, at_most_s=5.0))

    async def _check(self, box: Sandbox) -> None:
        """Hand on a warm sandbox if it still answers."""
        is_alive = False
        try:
            is_alive = await _answers(box)
        finally:
            if is_alive:
                self._hand(box)
            else:
                self._num_replaced += 1
                self._retire(box)

    def _hand(self, box: Sandbox) -> None:
        """Give an unused sandbox to the first in the queue, or to the shelf."""
        if (place := self._first()) is not None:
            self._leased.add(box)
            place.set_result(box)
        elif len(self._shelf) < self.warm and self._is_open:
            self._shelf.append(box)
        else:
            self._retire(box)

    def _first(self) -> asyncio.Future[Sandbox] | None:
        """The one who asked first and has not been cancelled; it leaves the queue."""
        while self._waiting:
            place = next(iter(self._waiting))
            del self._waiting[place]
            if not place.done():
                return place
        return None

    def _retire(self, box: Sandbox) -> None:
        self._spawn(self._closing, box.close())

    def _spawn(self, tasks: set[asyncio.Task[None]], work: Coroutine[Any, Any, None]) -> None:
        def ended(task: asyncio.Task[None]) -> None:
            tasks.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                self._crashes.append(error)
            self._advance()

        task = asyncio.create_task(work)
        tasks.add(task)
        task.add_done_callback(ended)

    async def _close(self) -> None:
        self._is_open = False
        while (place := self._first()) is not None:
            place.set_exception(SandboxError("the pool was closed while this lease waited in its queue"))
        for task in self._starting:
            task.cancel()
        while begun := self._starting | self._checking:
            await asyncio.wait(begun)
        while self._shelf:
            self._retire(self._shelf.popleft())
        while self._leased:
            self._retire(self._leased.pop())
        while self._closing:
            await asyncio.wait(self._closing)


async def _answers(box: Sandbox) -> bool:
    try:
        async with asyncio.timeout(_CHECK_S):
            await box.list()
    except (SandboxError, TimeoutError):
        return False
    return True


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Finish `work` even if the caller is cancelled; then be cancelled."""
    task = asyncio.create_task(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    task.result()
    if cancelled is not None:
        raise cancelled
