"""All trackers of a run: one that fails is left out from there on, and the run goes on."""

import asyncio
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from . import Tracker


class Trackers:
    """`tell` is called with words for a person."""

    def __init__(self, trackers: Mapping[str, Tracker], tell: Callable[[str], None]) -> None:
        self._trackers, self._tell = dict(trackers), tell

    async def resume(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Once, first."""
        known = [_numbers(row) for row in rows]
        await self._each(lambda tracker: tracker.resume(known))

    async def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """What is no finite number is not told: they have no word for it."""
        numbers = _numbers(metrics)
        await self._each(lambda tracker: tracker.log(step, numbers))

    async def close(self) -> None:
        """Whatever else happened."""
        await self._each(lambda tracker: tracker.close())

    async def _each(self, call: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                await asyncio.to_thread(call, tracker)
            except Exception as error:  # a tracker is not worth a run: somebody else's code and network
                del self._trackers[name]
                self._tell(
                    f"tracker {name}: {type(error).__name__}: {error}; it is told nothing from here on"
                )


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    kept = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
    return {name: value for name, value in kept.items() if math.isfinite(value)}
