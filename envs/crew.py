"""As many worker processes as people's code needs: few for quick calls, more where calls hang or wait."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from weakref import WeakKeyDictionary, WeakSet

from .worker import MAX_IDLE, Worker

FEW = min(4, MAX_IDLE)
"""Processes at once for calls of which none waits long."""
PATIENCE_S = 1.0
"""What a call waits for a process before there are more."""


class Crew:
    """Processes that are ready for the same work, at most `most` in each event loop.

    >>> async with crew.worker() as worker:
    ...     await worker.call(function)

    A call that finds none free waits for the first; where one has waited `PATIENCE_S`, there will be twice as
    many. So quick calls share few processes, and calls that hang, or wait for a server, do not hold up the
    others for long.
    """

    def __init__(self, prepare: Callable[[Worker], Awaitable[object]], *, most: int) -> None:
        """`prepare`: what comes before the first call of a process, and counts as a part of its start."""
        self._prepare, self._most = prepare, most
        self._ready = WeakSet[Worker]()
        self._shifts = WeakKeyDictionary[asyncio.AbstractEventLoop, _Shift]()

    @asynccontextmanager
    async def worker(self) -> AsyncGenerator[Worker, None]:
        """One that nobody else has. A call that is cut off kills it, and another takes its place.

        Raises `WorkerDied`, `OSError` and what `prepare` raises.
        """
        shift = self._shifts.setdefault(asyncio.get_running_loop(), _Shift(self._most))
        worker = await shift.hired()
        try:
            if worker not in self._ready:
                with shift.starting():
                    await worker.start()
                    await self._prepare(worker)
                self._ready.add(worker)
            yield worker
        finally:
            shift.pass_on(worker)


class _Shift:
    """The processes at work in one event loop, and who waits for one."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._num_hired = self._num_starting = 0
        self._queue = deque[tuple[float, asyncio.Future[Worker]]]()
        self._started_at = 0.0
        """The loop's time when the last one had started."""
        self._timer: asyncio.TimerHandle | None = None

    async def hired(self) -> Worker:
        """The next that is free."""
        loop = asyncio.get_running_loop()
        waiting: asyncio.Future[Worker] = loop.create_future()
        self._queue.append((loop.time(), waiting))
        if self._num_hired < min(FEW, self._most):
            self._hire()
        elif self._timer is None:
            self._timer = loop.call_later(PATIENCE_S, self._grow)
        try:
            return await waiting
        except asyncio.CancelledError as error:
            if waiting.cancelled():
                error.add_note(f"it waited for one of {self._most} worker processes")
            else:  # it got one in the same moment
                self.pass_on(waiting.result())
            raise

    @contextmanager
    def starting(self) -> Generator[None, None, None]:
        """Around the start of a process: while one starts, waiting says nothing of the calls."""
        self._num_starting += 1
        try:
            yield
        finally:
            self._num_starting -= 1
            self._started_at = asyncio.get_running_loop().time()

    def pass_on(self, worker: Worker) -> None:
        """To the next who waits; a process that was killed is replaced for them."""
        if worker.is_usable and (waiting := self._first()) is not None:
            waiting.set_result(worker)
            return
        self._num_hired -= 1
        worker.release()
        self._hire()

    def _hire(self) -> None:
        """Another process, for the first who waits."""
        if (waiting := self._first()) is None:
            return
        try:
            worker = Worker.hire(is_foreign=True)
        except (OSError, RuntimeError) as error:  # no process, or a script that is being imported by one
            waiting.set_exception(error)
        else:
            self._num_hired += 1
            waiting.set_result(worker)

    def _grow(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = None
        while self._queue and self._queue[0][1].done():
            self._queue.popleft()
        if not self._queue:
            return
        waited_s = loop.time() - max(self._queue[0][0], self._started_at)
        if waited_s >= PATIENCE_S and not self._num_starting:
            for _ in range(min(max(self._num_hired, 1), self._most - self._num_hired)):
                self._hire()
        self._timer = loop.call_later(PATIENCE_S / 4, self._grow)

    def _first(self) -> asyncio.Future[Worker] | None:
        while self._queue:
            _, waiting = self._queue.popleft()
            if not waiting.done():
                return waiting
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return None
