"""Runs a command and takes its whole process group down with it: `python guard.py COMMAND...`.

The guard leads the group. Its standard input is a pipe from the process that started it, and the pipe closes
when that process says so, and also when it is killed with -9: either way nothing of the command is left.
Standard library only; only a kill -9 of the guard itself gets past it.
"""

import os
import select
import signal
import subprocess
import sys
import time
from types import FrameType

GRACE_S = 10.0
"""Between SIGTERM and SIGKILL."""

_SIGNALS = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)


class _Told(Exception):
    """A signal asked the guard to end."""


def main() -> None:
    """Wait for the command, the pipe or a signal, whichever comes first; then end the group."""
    for number in _SIGNALS:
        signal.signal(number, _tell)
    child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    try:
        while child.poll() is None and not (select.select([0], [], [], 0.2)[0] and not os.read(0, 1)):
            pass
    except _Told:
        pass
    for number in _SIGNALS:  # a second one must not end the guard before its group
        signal.signal(number, signal.SIG_IGN)
    if child.poll() is None:
        os.killpg(0, signal.SIGTERM)
    until = time.monotonic() + GRACE_S
    while child.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    print(f"guard: the command ended with status {child.returncode}", file=sys.stderr, flush=True)
    os.killpg(0, signal.SIGKILL)  # what the command left behind, and the guard


def _tell(number: int, frame: FrameType | None) -> None:
    raise _Told


if __name__ == "__main__":
    main()
