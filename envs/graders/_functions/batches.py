"""Questions that are asked at the same time, answered by few calls."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Generic, TypeVar

Q = TypeVar("Q")
A = TypeVar("A")
_Asked = tuple[Q, asyncio.Future[A]]

LINGER_S = 0.01
"""How long the first question waits for company."""


class Batches(Generic[Q, A]):
    """At most `concurrency` calls at a time, with at most `batch` questions each. Belongs to one event loop.

    >>> batches = Batches(call, batch=16, concurrency=4)     # call: list of questions -> as many answers
    >>> await asyncio.gather(*map(batches.ask, questions))

    An answer that is an exception is raised to whoever asked. Where a call of several questions raises what
    one of them may have caused, each is asked again alone, before others are asked, so that none takes the
    others' answers with it; any other exception of a call is raised to all that it was for. A call whose
    askers have all gone away is cancelled.
    """

    def __init__(
        self,
        call: Callable[[list[Q]], Awaitable[Sequence[A | Exception]]],
        *,
        batch: int,
        concurrency: int,
        is_ones_doing: Callable[[Exception], bool] = lambda error: False,
    ) -> None:
        """`is_ones_doing`: whether one question of a call may have caused that exception of it."""
        self._call, self._batch, self._concurrency = call, batch, concurrency
        self._is_ones_doing = is_ones_doing
        self._waiting: list[_Asked[Q, A]] = []
        self._alone: list[_Asked[Q, A]] = []
        self._calls: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def ask(self, question: Q) -> A:
        """The answer to one question."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[A] = loop.create_future()
        self._waiting.append((question, future))
        if len(self._waiting) >= self._batch:
            self._send()
        elif self._timer is None:
            self._timer = loop.call_later(LINGER_S, self._send)
        return await future

    def _send(self) -> None:
        """As many calls as there is room for."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._alone, self._waiting = _awaited(self._alone), _awaited(self._waiting)
        while (self._alone or self._waiting) and len(self._calls) < self._concurrency:
            queue, size = (self._alone, 1) if self._alone else (self._waiting, self._batch)
            sent = queue[:size]
            del queue[:size]
            call = asyncio.create_task(self._answer(sent))
            self._calls.add(call)
            call.add_done_callback(self._ended)
            for _, future in sent:
                future.add_done_callback(partial(_end_unheard, sent, call))

    def _ended(self, call: asyncio.Task[None]) -> None:
        self._calls.discard(call)
        if self._alone or self._waiting:
            self._send()

    async def _answer(self, sent: Sequence[_Asked[Q, A]]) -> None:
        try:
            answers = await self._call([question for question, _ in sent])
        except Exception as error:  # every kind: it is raised again to those who asked
            if len(sent) > 1 and self._is_ones_doing(error):
                self._alone += sent
                return
            answers = [error] * len(sent)
        for (_, future), answer in zip(sent, answers, strict=True):
            if future.done():
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)


def _awaited(asked: Sequence[_Asked[Q, A]]) -> list[_Asked[Q, A]]:
    """Those whose askers have not gone away."""
    return [each for each in asked if not each[1].done()]


def _end_unheard(
    sent: Sequence[tuple[Q, asyncio.Future[A]]], call: asyncio.Task[None], _: asyncio.Future[A]
) -> None:
    if all(future.cancelled() for _, future in sent):
        call.cancel()
