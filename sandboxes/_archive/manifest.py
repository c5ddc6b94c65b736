"""What an archive may hold, and the names that its entries have taken so far."""

from dataclasses import dataclass
from typing import Literal, NoReturn

from ..errors import ArchiveRefused

MAX_NAME = 255
"""Bytes of one part of a path: what Linux can hold."""
MAX_PATH = 4095
"""Bytes of a whole path."""
_TAR_BLOCKS = 512 * 11
"""The most that a file takes in a tar beside its content: two headers, the longest path, padding."""
_FREE_BYTES = 16 << 20
"""What no ratio is asked of: a tar of equal small files shrinks to a 700th."""
_SPECIAL_BITS = 0o6000


@dataclass(frozen=True, kw_only=True, slots=True)
class ArchiveLimits:
    """How much an archive may hold.

    >>> ArchiveLimits(max_entries=100).max_bytes
    67108864
    """

    max_entries: int = 10_000
    """Files and directories, those that only occur in paths included."""
    max_bytes: int = 64 << 20
    """Content of all files together, bytes."""
    max_ratio: float = 200.0
    """Uncompressed to compressed size of the whole archive; not asked below 16 MiB."""

    def __post_init__(self) -> None:
        for name in ("max_entries", "max_bytes", "max_ratio"):
            if not getattr(self, name) > 0:
                raise ValueError(f"ArchiveLimits.{name} must be over 0, got {getattr(self, name)}")

    @property
    def max_size(self) -> int:
        """What an archive within these limits takes uncompressed, headers included: at most so many bytes."""
        return self.max_bytes + self.max_entries * _TAR_BLOCKS + (1 << 20)

    def require_size(self, size: int) -> None:
        """Refuse an archive of so many bytes."""
        if size > self.max_size:
            refuse(
                f"it has {size:,} bytes or more, over the {self.max_size:,} that ArchiveLimits.max_bytes="
                f"{self.max_bytes:,} and its headers can take; raise max_bytes, or pack less"
            )

    def require_ratio(self, size: int, packed: int) -> None:
        """Refuse an archive of `packed` bytes that becomes `size`, if it is a bomb."""
        if size > max(_FREE_BYTES, self.max_ratio * packed):
            refuse(
                f"its {packed:,} bytes become {size:,} or more, over ArchiveLimits.max_ratio="
                f"{self.max_ratio:g}; raise max_ratio, or send it less compressed"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class ArchiveEntry:
    """One file or directory of an archive that was found good."""

    path: str
    """Relative, without "." and ".."; bytes that are not UTF-8 are surrogates, as in `os.fsdecode`."""
    is_directory: bool
    content: memoryview
    """The file's bytes; empty for a directory."""


class Manifest:
    """The names in an archive. Each is checked against the limits and against those before it."""

    def __init__(self, limits: ArchiveLimits) -> None:
        self.limits = limits
        self.num_bytes = 0
        """Content claimed so far."""
        self._taken: dict[str, Literal["file", "directory", "parent"]] = {}

    def claim(self, name: bytes, *, size: int, mode: int, is_directory: bool) -> str:
        """The path that an entry gets; "" for the top itself. Refuses what may not be written."""
        entry = shown(name)
        path = clean_path(name, entry)
        if mode & _SPECIAL_BITS:
            refuse(f"its mode {mode:#o} has a setuid or setgid bit; clear it (chmod ug-s)", entry)
        if is_directory and size:
            refuse(f"it is a directory, and has {size:,} bytes of content; make the archive again", entry)
        self._count_bytes(size, entry)
        if path:
            self._take(path, is_directory, entry)
        elif not is_directory:
            refuse("its name is empty; name the file", entry)
        return path

    def _count_bytes(self, size: int, entry: str) -> None:
        self.num_bytes += size
        if self.num_bytes > self.limits.max_bytes:
            refuse(
                f"with its {size:,} bytes the files have {self.num_bytes:,}, over ArchiveLimits.max_bytes="
                f"{self.limits.max_bytes:,}; raise the limit, or pack less",
                entry,
            )

    def _take(self, path: str, is_directory: bool, entry: str) -> None:
        before = self._taken.get(path)
        if before is not None and not (before == "parent" and is_directory):
            refuse(f"another entry already made a {before} of that name; pack each name once", entry)
        self._mark(path, "directory" if is_directory else "file", entry)
        while "/" in path:
            path = path.rpartition("/")[0]
            kind = self._taken.get(path)
            if kind == "file":
                refuse(f"{shown(path.encode(errors='surrogateescape'))} is a file already; rename one", entry)
            if kind is not None:
                break
            self._mark(path, "parent", entry)

    def _mark(self, path: str, kind: Literal["file", "directory", "parent"], entry: str) -> None:
        self._taken[path] = kind
        if len(self._taken) > self.limits.max_entries:
            refuse(
                f"it is one more than ArchiveLimits.max_entries={self.limits.max_entries:,} files and "
                "directories; raise the limit, or pack fewer",
                entry,
            )


def clean_path(name: bytes, entry: str) -> str:
    """A relative path without "." and empty parts. Refuses what leads out, or what Linux cannot hold.

    >>> clean_path(b"./a//b/", "entry")
    'a/b'
    """
    if len(name) > MAX_PATH:
        refuse(f"its path has {len(name):,} bytes, over {MAX_PATH:,}; shorten it", entry)
    if b"\0" in name:
        refuse("its name has a NUL character; rename it", entry)
    if name.startswith(b"/"):
        refuse("its path is absolute; pack it relative to a directory", entry)
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        refuse('its path has ".." in it; pack it without', entry)
    if (longest := max(map(len, parts), default=0)) > MAX_NAME:
        refuse(f"a part of its path has {longest} bytes, over {MAX_NAME}; shorten it", entry)
    return b"/".join(parts).decode(errors="surrogateescape")


def shown(name: bytes) -> str:
    """How a message names an entry.

    >>> shown(b"a/b")
    "entry 'a/b'"
    """
    return f"entry {name[:200].decode(errors='surrogateescape')!r}"


def refuse(reason: str, part: str = "") -> NoReturn:
    """Raise `ArchiveRefused`, with the part of the archive that is to blame."""
    raise ArchiveRefused(f"archive, {part}: {reason}" if part else f"archive: {reason}")
