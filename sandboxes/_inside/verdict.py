"""The status of a program that has ended."""

from __future__ import annotations

import signal

from .cell import Events
from .pages import Capture
from .reactor import End

_MEMORY_SIGNS = (b"MemoryError", b"std::bad_alloc", b"Cannot allocate memory")
_KILL_SIGNS = (b"Killed", b"SIGKILL", *_MEMORY_SIGNS)
_PIDS_SIGNS = (b"can't start new thread", b"Resource temporarily unavailable", b"Cannot fork")
_LAST_WORDS = 400
"""Bytes at the end of stderr in which a reason is looked for."""


def judge(
    broken: str | None,
    end: End,
    stderr: Capture | None,
    *,
    memory_mb: int,
    was_full: bool,
    was_alone: bool,
    since: Events,
) -> str:
    """The status of a program that ended by itself (`broken` None) or by a limit.

    `since`: what the kernel did while it ran. Python, C++ and shells report a refused allocation or process
    in words: the end of stderr tells that from other failures. Where others ran beside it, only such signs
    tell whose limit it was.
    """

    def says(signs: tuple[bytes, ...]) -> bool:
        return stderr is not None and stderr.ends_with_any(signs, _LAST_WORDS)

    def was_killed() -> bool:
        by_hand = end.signal == signal.SIGKILL or end.exit_code == 128 + signal.SIGKILL
        return broken is None and (by_hand or (end.exit_code != 0 and says(_KILL_SIGNS)))

    # Between two looks a program can take too much and end: its peak tells.
    if broken is None and end.rss_kb > memory_mb << 10:
        return "oom"
    if since.ooms and (was_alone or was_killed()):
        return "oom"
    if broken is not None:
        return "pids" if broken == "timeout" and was_full and says(_PIDS_SIGNS) else broken
    if end.exit_code == 0:
        return "ok"
    if says(_MEMORY_SIGNS):
        return "oom"
    if says(_PIDS_SIGNS) or (was_alone and (was_full or since.refused_forks)):
        return "pids"
    return "killed" if end.exit_code is None else "nonzero"
