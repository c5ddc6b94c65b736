"""Whose process is it: a mark that every process of a job inherits, whatever it forks, executes or leaves.

The mark is a limit that nothing here can reach, on real-time processor use. Nobody without privileges can
raise a hard limit again. A program that lowers its own takes the mark of a job that was started later, or of
none: it dies with that one then, or with the next job that ends.
"""

from __future__ import annotations

import resource

_FIELD = b"Max realtime timeout"


def _highest() -> int:
    _, hard = resource.getrlimit(resource.RLIMIT_RTTIME)
    return 1 << 40 if hard == resource.RLIM_INFINITY else hard


_TOP = _highest()


def brand(number: int) -> None:
    """In a new child: it is of job `number` from here on."""
    resource.setrlimit(resource.RLIMIT_RTTIME, (_TOP - number, _TOP - number))


def brand_of(pid: int) -> int:
    """The number of its job. For a process that is of none, or has gone: a number that no job has."""
    try:
        with open(f"/proc/{pid}/limits", "rb") as file:
            text = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    at = text.find(_FIELD)
    hard = text[at + len(_FIELD) :].split(None, 2)[1] if at >= 0 else b""
    return _TOP - int(hard) if hard.isdigit() else 0
