"""A limit on the processor time of one call in a worker process."""

import signal
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def cpu_limit(seconds: float) -> Generator[None, None, None]:
    """Ends the process, native code and all, when the block takes more. For a worker's main thread.

    Processor time, not wall time: a busy machine makes no answer wrong.
    """
    # Nobody handles its signal, whose default is to end: native code too, such as the power in 10**10**10.
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
