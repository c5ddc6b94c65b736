"""A limit on the processor time of one call in a worker process."""

import signal
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def cpu_limit(seconds: float) -> Generator[None, None, None]:
    """Ends the process, native code and all, when the block takes more. For a worker's main thread.

    Processor time, not wall time: a busy machine makes no answer wrong.
    """
    signal.setitimer(signal.ITIMER_PROF, seconds)  # nobody handles its signal, whose default is to end
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
