"""SIGINT and SIGTERM: finish the move under way, keep everything, leave."""

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Interrupted(Exception):
    """A signal asked the run to stop. Everything is on disk; `--resume` goes on."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}; go on with --resume")
        self.exit_code = 128 + number


class Interrupt:
    """Turns the signals of a block into `Interrupted`, at places where nothing is half done."""

    def __init__(self) -> None:
        self._number: int | None = None
        self._raised = asyncio.Event()

    def __enter__(self) -> "Interrupt":
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal, number)
        return self

    def __exit__(self, *exc: object) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)

    def _on_signal(self, number: int) -> None:
        self._number = number
        self._raised.set()

    def check(self) -> None:
        """Raise `Interrupted` if a signal has come."""
        if self._number is not None:
            raise Interrupted(self._number)

    async def during(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, which a signal cancels: for work that can be done again."""
        task = asyncio.create_task(work)
        signalled = asyncio.create_task(self._raised.wait())
        try:
            await asyncio.wait({task, signalled}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                self.check()
            return await task
        finally:
            signalled.cancel()
            if not task.done():
                task.cancel()
            await asyncio.gather(task, signalled, return_exceptions=True)
