"""What a killed process leaves behind becomes ours to see."""

import os
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from pathlib import Path

from palaestra.sandboxes._inside import linux


@contextmanager
def adopted() -> Generator[None, None, None]:
    """For the length of the block, orphans below this process become its children and not those of init."""
    linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
    try:
        yield
    finally:
        linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 0)


def children(of: int | None = None) -> set[int]:
    """Of this process, or another, zombies included."""
    found = set[int]()
    for task in Path(f"/proc/{of or os.getpid()}/task").iterdir():
        with suppress(FileNotFoundError):  # a thread that has just ended
            found.update(map(int, (task / "children").read_text().split()))
    return found


def living(known: Iterable[int]) -> list[str]:
    """The command lines of children that are not `known`; dead ones are reaped."""
    found: list[str] = []
    for pid in children().difference(known):
        with suppress(ChildProcessError, FileNotFoundError):
            if os.waitpid(pid, os.WNOHANG) == (0, 0):
                command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
                found.append(f"{pid}: {command or '(zygote or supervisor)'}")
    return found
