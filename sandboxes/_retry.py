"""How long to leave alone what has just failed."""

import random

_MAX_PAUSE_S = 5.0


def pause_s(failures: int) -> float:
    """Seconds after so many failures in a row: about 0.1, then twice as long each time.

    The jitter keeps those that failed together from coming back together.
    """
    return min(0.1 * 2.0 ** min(failures - 1, 16), _MAX_PAUSE_S) * random.uniform(0.5, 1.0)
