# asyncio-pool ships no types; the part that palaestra uses.
from asyncio import Future
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

class AioPool:
    def __init__(self, size: int = 1024) -> None: ...
    async def spawn(self, coro: Coroutine[Any, Any, T]) -> Future[T]: ...
    async def cancel(self) -> tuple[int, list[object]]: ...
