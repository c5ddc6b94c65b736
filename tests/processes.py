"""Process groups, as /proc shows them."""

import time
from pathlib import Path


def group(pgid: int) -> list[int]:
    """Living processes of a process group."""
    found = list[int]()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, process_group = stat.read_text().rsplit(")", 1)[1].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(process_group) == pgid and state != "Z":
            found.append(int(stat.parent.name))
    return found


def wait_until_gone(pgid: int) -> None:
    """Fails with what is left after half a minute."""
    until = time.monotonic() + 30
    while left := group(pgid):
        assert time.monotonic() < until, f"left over: {left}"
        time.sleep(0.05)
