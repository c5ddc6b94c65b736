"""How many sandboxes may be starting at one time: as many as do not slow each other down."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

_SLOW = 2.0
"""A start that took more than so many times the fastest is a sign of a crowd."""
_QUICK_S = 0.05
"""One that took less never is: the event loop's own delays are of that size."""
_DECREASE = 0.7


@dataclass(frozen=True, kw_only=True, slots=True)
class Begun:
    """A start that is under way."""

    at_s: float
    """By the limit's clock."""
    is_at_limit: bool
    """No other may begin beside it."""
    is_alone: bool
    """No other is under way, and none may begin."""
    num_decreases: int
    """How often the limit had been lowered by then."""


class StartLimit:
    """Additive increase, multiplicative decrease.

    More starts at once help until the machine or the Docker engine is busy; from there on each only takes
    longer. Every start that ends is a signal:

    - quick, and begun at the limit: the limit grows by 1 / limit, which is one for each round of starts;
    - slow or failed: the limit becomes 0.7 of itself, once for all that were under way together;
    - alone, at a limit of 1: this is how long a start takes by now. A machine that became slower for good
      drives the limit down to here, and is learned anew.

    The first is the rule that converges to fair and full use (Chiu and Jain, "Analysis of the Increase and
    Decrease Algorithms for Congestion Avoidance", 1989; TCP's). "Slow" is measured against the fastest start,
    as TCP Vegas does with round trips and Netflix's concurrency-limits with requests: nobody has to know how
    fast the machine is.
    """

    def __init__(self, maximum: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit = 1.0
        """Starts at one time; its whole part counts."""
        self._maximum = maximum
        self._clock = clock
        self._num_decreases = 0
        self._fastest_s = math.inf

    def has_room(self, num_starting: int) -> bool:
        return num_starting < int(self.limit)

    def begin(self, num_starting: int) -> Begun:
        """A start begins; `num_starting` counts it."""
        is_at_limit = not self.has_room(num_starting)
        return Begun(
            at_s=self._clock(),
            is_at_limit=is_at_limit,
            is_alone=is_at_limit and num_starting == 1,
            num_decreases=self._num_decreases,
        )

    def succeed(self, begun: Begun) -> None:
        lasted_s = self._clock() - begun.at_s
        if begun.is_alone or lasted_s < self._fastest_s:
            self._fastest_s = lasted_s
        if lasted_s > max(_QUICK_S, _SLOW * self._fastest_s):
            self._decrease(begun)
        elif begun.is_at_limit:
            self.limit = min(self.limit + 1 / self.limit, self._maximum)

    def fail(self, begun: Begun) -> None:
        self._decrease(begun)

    def _decrease(self, begun: Begun) -> None:
        if begun.num_decreases == self._num_decreases:
            self.limit = max(self.limit * _DECREASE, 1.0)
            self._num_decreases += 1
