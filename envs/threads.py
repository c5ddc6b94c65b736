"""Blocking code beside the event loop."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from .errors import no_exit

T = TypeVar("T")


async def in_thread(call: Callable[[], T]) -> T:
    """`call()` in a daemon thread of its own.

    A thread cannot be killed: on cancellation the wait ends and the thread lives on. It therefore never comes
    from a shared pool, which a few hung calls would block for everyone, and it never holds up the exit.
    """
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[Callable[[], T]] = loop.create_future()

    def deliver(result: Callable[[], T]) -> None:
        if not ended.done():
            ended.set_result(result)

    def run() -> None:
        result = _outcome(call)
        with suppress(RuntimeError):  # the loop was closed: nobody waits any more
            loop.call_soon_threadsafe(deliver, result)

    threading.Thread(target=run, daemon=True, name="palaestra-call").start()
    return (await ended)()


def _outcome(call: Callable[[], T]) -> Callable[[], T]:
    """What `call()` did, as something that does it again: returns its value or raises its error."""
    try:
        with no_exit():
            value = call()
    except BaseException as error:  # every kind: it is raised again in the thread that waits
        failure = error

        def fail() -> T:
            raise failure

        return fail
    return lambda: value
