"""The status of a program that has ended."""

from __future__ import annotations

from .cell import Events
from .pages import Capture
from .reactor import End

_MEMORY_SIGNS = (b"MemoryError", b"std::bad_alloc", b"Cannot allocate memory")
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
    since: Events,
) -> str:
    """The status of a program that ended by itself (`broken` None) or by a limit.

    `since`: what the kernel did while it ran. Python, C++ and shells report a refused allocation or process
    in words: the end of stderr tells that from other failures.
    """

    def says(signs: tuple[bytes, ...]) -> bool:
        return stderr is not None and stderr.ends_with_any(signs, _LAST_WORDS)

    # Between two looks a program can take too much and end: its peak tells.
    if since.ooms or (broken is None and end.rss_kb > memory_mb << 10):
        return "oom"
    if broken is not None:
        return "pids" if broken == "timeout" and was_full and says(_PIDS_SIGNS) else broken
    if end.exit_code == 0:
        return "ok"
    if says(_MEMORY_SIGNS):
        return "oom"
    if was_full or since.refused_forks or says(_PIDS_SIGNS):
        return "pids"
    return "killed" if end.exit_code is None else "nonzero"
