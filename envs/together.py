"""Several things at the same time, all or none of them."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def together(*work: Coroutine[Any, Any, T]) -> list[T]:
    """What each returns, in their order. When one raises, the others are cancelled, and have ended when its
    error is raised: nothing is left that runs on, and costs, for nobody.

    Not a TaskGroup: its error would be a group, and a cancellation would lose its notes.
    """
    tasks = [asyncio.create_task(each) for each in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
