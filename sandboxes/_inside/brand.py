"""Whose process is it: a mark that every process of a job inherits, whatever it forks, executes or leaves.

The mark is two limits that nothing here can reach, on real-time processor use and on file locks (which Linux
has not counted since 2.4). Nobody without privileges can raise a hard limit again. One falls with the number
of the job and the other rises: a program that lowers its own is of no job, and dies with the next that ends.
"""

from __future__ import annotations

import resource

_FIELDS = b"Max realtime timeout", b"Max file locks"
_LOCKS = 10
"""RLIMIT_LOCKS, which the module lacks."""
_MOST = 1 << 32
"""Numbers of jobs are below."""


def _highest(limit: int) -> int:
    _, hard = resource.getrlimit(limit)
    return 1 << 40 if hard == resource.RLIM_INFINITY else hard


_TOP, _BASE = _highest(resource.RLIMIT_RTTIME), _highest(_LOCKS) - _MOST


def brand(number: int) -> None:
    """In a new child: it is of job `number` from here on."""
    for limit, value in ((resource.RLIMIT_RTTIME, _TOP - number), (_LOCKS, _BASE + number)):
        resource.setrlimit(limit, (value, value))


def brand_of(pid: int) -> int:
    """The number of its job. For a process that is of none, or has gone: a number that no job has."""
    try:
        with open(f"/proc/{pid}/limits", "rb") as file:
            text = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    falling, rising = (_hard(text, field) for field in _FIELDS)
    return _TOP - falling if _TOP - falling == rising - _BASE else 0


def _hard(text: bytes, field: bytes) -> int:
    at = text.find(field)
    hard = text[at + len(field) :].split(None, 2)[1] if at >= 0 else b""
    return int(hard) if hard.isdigit() else 0
