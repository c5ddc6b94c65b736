"""How long to leave something alone that has just failed."""

import random

MAX_PAUSE_S = 30.0
"""Also when an endpoint asks for more."""


def backoff_s(
    first_s: float, failures: int, *, at_least_s: float = 0.0, at_most_s: float = MAX_PAUSE_S
) -> float:
    """Seconds to wait after so many failures in a row: about `first_s`, then twice as long each time.

    The jitter keeps those that failed together from coming back together.
    """
    pause_s = min(first_s * 2.0 ** min(failures - 1, 16), at_most_s) * random.uniform(0.5, 1.0)
    return min(max(pause_s, at_least_s), at_most_s)
