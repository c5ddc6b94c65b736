"""Other policies inside an environment: a simulated user, a judge, an opponent.

async def step(self, action):
    said = await self.partner(self.opponent)(self.heard, ())
"""

import asyncio
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from .errors import returned
from .message import AssistantMessage, Message, ToolSpec
from .policy import Policy


class Waiting:
    """How long an environment has waited for its partners. Waits side by side count once."""

    def __init__(self) -> None:
        self._spent_s = self._since = 0.0
        self._num_waiting = 0
        self._limit: asyncio.Timeout | None = None
        self._left_s: float | None = None

    @property
    def seconds(self) -> float:
        """Up to now, a wait under way included."""
        return self._spent_s + (time.monotonic() - self._since if self._num_waiting else 0.0)

    @contextmanager
    def pausing(self, limit: asyncio.Timeout) -> Generator[None, None, None]:
        """Inside, `limit` stands still while the environment waits."""
        self._limit = limit
        try:
            yield
        finally:
            self._limit = None

    @contextmanager
    def under_way(self) -> Generator[None, None, None]:
        """Inside, the environment waits."""
        self._num_waiting += 1
        if self._num_waiting == 1:
            self._since = time.monotonic()
            self._hold()
        try:
            yield
        finally:
            if self._num_waiting == 1:
                self._spent_s += time.monotonic() - self._since
                self._let_go()
            self._num_waiting -= 1

    def _hold(self) -> None:
        if self._limit is None or self._limit.expired() or (when := self._limit.when()) is None:
            return
        self._left_s = when - asyncio.get_running_loop().time()
        self._limit.reschedule(None)

    def _let_go(self) -> None:
        if self._limit is not None and self._left_s is not None:
            self._limit.reschedule(asyncio.get_running_loop().time() + self._left_s)
        self._left_s = None


@dataclass(frozen=True, slots=True)
class Partner:
    """Made by `Env.partner`."""

    policy: Policy
    waiting: Waiting

    async def __call__(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> AssistantMessage:
        with self.waiting.under_way():
            return returned(await self.policy(messages, tools), AssistantMessage, by="a partner")
