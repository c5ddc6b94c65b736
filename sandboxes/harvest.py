"""What a sandbox's workspace holds: regular files, read from the top down within limits."""

from collections import deque
from dataclasses import dataclass

from .errors import SandboxFileError
from .sandbox import Sandbox


@dataclass(frozen=True, kw_only=True, slots=True)
class LeftOut:
    """Something of a workspace that was not read."""

    path: str
    """Relative to where the walk began; a directory ends with "/"."""
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Harvest:
    """Files of a workspace, and what else is in it."""

    files: tuple[tuple[str, bytes], ...]
    """(path, content) pairs, sorted by path, relative to where the walk began. A name need not be UTF-8."""
    left_out: tuple[LeftOut, ...]
    """Links, pipes, files that did not fit, directories that could not be listed or not to their end."""


async def harvest(box: Sandbox, path: str = ".", *, max_bytes: int, max_entries: int) -> Harvest:
    """The regular files under a directory, as long as they fit. `SandboxFileError` when it cannot be listed.

    `max_bytes` is for all contents together, `max_entries` for directory entries of any kind: a program can
    make millions.
    """
    files: list[tuple[str, bytes]] = []
    left_out: list[LeftOut] = []
    above = "" if path == "." else f"{path}/"
    folders, num_seen = deque([""]), 0
    while folders:
        folder = folders.popleft()
        if num_seen == max_entries:
            left_out.append(LeftOut(path=folder, reason=f"not looked into: over max_entries={max_entries}"))
            continue
        try:
            names = await box.list(above + folder or ".")
        except SandboxFileError as error:  # too deep, or not readable
            if not folder:
                raise
            left_out.append(LeftOut(path=folder, reason=str(error)))
            continue
        looked_at = names[: max_entries - num_seen]
        num_seen += len(looked_at)
        if num_over := len(names) - len(looked_at):
            reason = f"{num_over} of its {len(names)} names are over max_entries={max_entries}"
            left_out.append(LeftOut(path=folder or "./", reason=reason))
        for name in looked_at:
            if name.endswith("/"):
                folders.append(folder + name)
                continue
            try:
                data = await box.read(above + folder + name, max_bytes=max_bytes)
            except SandboxFileError as error:  # a link, a pipe, a file that does not fit
                left_out.append(LeftOut(path=folder + name, reason=str(error)))
                continue
            max_bytes -= len(data)
            files.append((folder + name, data))
    return Harvest(files=tuple(sorted(files)), left_out=tuple(left_out))
