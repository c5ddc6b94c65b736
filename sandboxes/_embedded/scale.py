"""What memory processes share is known to who waits for their page tables: here another process does."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress

NEVER = -1
"""The weight of what could not be weighed in time."""
_MOST_S = 1.0


class Scale:
    """One weighing at a time. A process that forks has its page tables locked most of the time, and to wait
    for that is to look away while it becomes many."""

    def __init__(self) -> None:
        self.pid = 0
        """Of the process that weighs, or of the last that did."""
        self._process = self._answer = -1
        self._until = 0.0

    def weigh(self, bytes_of: Callable[[], int]) -> int | None:
        """The weight, or NEVER, when the weighing under way has ended; else None, and one is under way."""
        if self._answer < 0:
            self._start(bytes_of)
            return None
        try:
            words = os.read(self._answer, 32)
        except BlockingIOError:
            if time.monotonic() < self._until:
                return None
            self.forget()
            return NEVER
        self.forget()
        # It was killed with the program before: then nothing was weighed.
        return int(words) if words else None

    def forget(self) -> None:
        """What is on the scale is not what is to be weighed next."""
        if self._answer >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._process, signal.SIGKILL)
            os.close(self._process)
            os.close(self._answer)
            self._answer = -1

    def _start(self, bytes_of: Callable[[], int]) -> None:
        ours, answer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            self.pid = os.fork()
        except OSError:
            # The machine is full of processes: the next look tries again.
            os.close(ours)
        else:
            if not self.pid:
                try:
                    os.write(answer, b"%d" % bytes_of())
                finally:
                    os._exit(0)
            self._answer, self._process = ours, os.pidfd_open(self.pid)
            self._until = time.monotonic() + _MOST_S
        os.close(answer)
