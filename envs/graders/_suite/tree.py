"""The files of a workspace that changed since the last look, which the two sandboxes tell each other."""

from __future__ import annotations

import base64
import os
import stat
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import TypeAlias

MAX_BYTES = 1 << 22
"""Of the files that changed between two looks, all together."""
SKIPPED = ("__pycache__", ".git")
_FRESH_NS = 50_000_000
"""A file changed so lately may change again without a new time stamp: its content is looked at."""

Changes: TypeAlias = "dict[str, list[Any] | None]"
"""By relative path: [mode, content in base64], or [] for a directory, or None for what is gone."""
Mark: TypeAlias = "tuple[int, ...]"


class Tree:
    """Regular files and directories beneath `root`; links and devices do not exist.

    `hidden` files neither leave nor are overwritten.
    """

    def __init__(self, root: str, hidden: Iterable[str] = ()) -> None:
        self._root = root
        self._hidden = frozenset(hidden)
        self._seen: dict[str, Mark] = {}
        self._seen = dict(self._walk(""))

    def changes(self, also: Iterable[str] = ()) -> Changes:
        """What is new, changed or gone since the last call. `also`: hidden files that go along this once."""
        now = dict(self._walk(""))
        changed: Changes = {path: None for path in reversed(list(self._seen)) if path not in now}
        new = [path for path in now if now[path] != self._seen.get(path)]
        changed.update((path, self._read(path)) for path in [*new, *also])
        self._seen = now
        size = sum(len(entry[1]) for entry in changed.values() if entry)
        if size > MAX_BYTES * 4 // 3 + 4:
            raise OSError(f"files of {size * 3 // 4} bytes changed at once, over {MAX_BYTES}")
        return changed

    def apply(self, changes: Changes) -> None:
        """Make the same changes here. What has no place beneath the root, or is hidden, is left alone."""
        for path, entry in changes.items():
            parts = path.split("/")
            is_ours = all(part not in ("", ".", "..") and "\0" not in part for part in parts)
            if is_ours and not self._covers(path):
                self._put(path, entry)
        self._seen = dict(self._walk(""))

    def _covers(self, path: str) -> bool:
        """Whether a path is hidden, lies beneath what is, or holds it."""
        return any(
            path == name or path.startswith(name + "/") or name.startswith(path + "/")
            for name in self._hidden
        )

    def _put(self, path: str, entry: list[Any] | None) -> None:
        place = os.path.join(self._root, path)
        try:
            if entry is None:
                _remove(place)
            elif not entry:
                os.makedirs(place, exist_ok=True)
            else:
                content = base64.b64decode(entry[1])
                os.makedirs(os.path.dirname(place), exist_ok=True)
                _remove(place)
                mode = 0o755 if int(entry[0]) & 0o100 else 0o644
                with os.fdopen(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                    file.write(content)
        except OSError:
            # A full disk, or a place that this side has made something else of: the file is missing then.
            return

    def _read(self, path: str) -> list[Any]:
        place = os.path.join(self._root, path)
        status = os.lstat(place)
        if stat.S_ISDIR(status.st_mode):
            return []
        if status.st_size > MAX_BYTES:
            raise OSError(f"{path!r} has {status.st_size} bytes, over {MAX_BYTES}")
        return [status.st_mode & 0o777, base64.b64encode(_content(place)).decode()]

    def _walk(self, under: str) -> Iterator[tuple[str, Mark]]:
        try:
            with os.scandir(os.path.join(self._root, under)) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError:
            return
        for entry in found:
            path = f"{under}/{entry.name}" if under else entry.name
            if entry.name in SKIPPED or path in self._hidden or not _is_text(path):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield path, ()
                yield from self._walk(path)
            elif entry.is_file(follow_symlinks=False) and os.path.lexists(entry.path):
                yield path, self._mark(path, entry.stat(follow_symlinks=False))

    def _mark(self, path: str, status: os.stat_result) -> Mark:
        mark = (status.st_mtime_ns, status.st_size, status.st_ino)
        is_fresh = time.time_ns() - status.st_mtime_ns < _FRESH_NS
        seen = self._seen.get(path)
        if not is_fresh and seen and seen[:3] == mark and not seen[3]:
            return seen
        if not is_fresh and (not seen or seen[:3] != mark):
            return (*mark, 0)
        return (*mark, hash(_content(os.path.join(self._root, path))) | 1)


def _content(place: str) -> bytes:
    try:
        with open(place, "rb") as file:
            return file.read(MAX_BYTES)
    except OSError:  # gone meanwhile, or not to be read
        return b""


def _remove(place: str) -> None:
    if os.path.isdir(place) and not os.path.islink(place):
        os.rmdir(place)
    elif os.path.lexists(place):
        os.unlink(place)


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
