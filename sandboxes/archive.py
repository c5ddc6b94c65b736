"""Workspaces as archives: `pack` makes one, `unpack` takes one that anybody may have made.

What is not protected: files are written one by one, and a workspace that fills up on the way keeps the first.
Modes, times, owners, links and empty directories are not kept. Archives inside archives stay closed.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from ._archive.compression import decompressed
from ._archive.manifest import MAX_PATH, ArchiveEntry, ArchiveLimits, Manifest, clean_path, refuse, shown
from ._archive.tar import is_tar, read_tar, tar_of
from ._archive.zip import is_zip, read_zip
from .errors import ArchiveRefused, SandboxFileError
from .harvest import LeftOut, harvest
from .sandbox import Sandbox, is_word

T = TypeVar("T")
__all__ = ["ArchiveEntry", "ArchiveLimits", "ArchiveRefused", "Packed", "check_archive", "pack", "unpack"]


def check_archive(data: bytes, limits: ArchiveLimits | None = None) -> list[ArchiveEntry]:
    """The files and directories of a tar (plain, gzip, bzip2 or xz) or zip, after all of it was found good.

    >>> [entry.path for entry in check_archive(tar_of([("a/b", b"hi")]))]
    ['a/b']

    Raises `ArchiveRefused` for everything else: paths that lead out, links and devices, a name twice or
    a file where a directory is, setuid bits, what is damaged, encrypted or sparse, and what is over a limit.
    """
    limits = limits or ArchiveLimits()
    limits.require_size(len(data))
    return list(_entries(data, Manifest(limits)))


def _entries(data: bytes, manifest: Manifest) -> Iterator[ArchiveEntry]:
    if is_tar(data):
        return read_tar(data, manifest)
    if is_zip(data):
        return read_zip(data, manifest)
    return read_tar(decompressed(data, manifest.limits), manifest)


async def unpack(
    box: Sandbox, data: bytes, into: str = ".", *, limits: ArchiveLimits | None = None
) -> tuple[str, ...]:
    """Write an archive's files below a directory of the workspace; their paths there.

    >>> await unpack(box, data, into="src")
    ('src/main.py', 'src/util/text.py')

    Raises `ArchiveRefused` before anything is written; `SandboxFileError` when the workspace refuses a file.
    """
    if not is_word(into):
        refuse("a path is UTF-8 text without NUL", f"into={into!r:.200}")
    folder = clean_path(into.encode(errors="surrogateescape"), f"into={into!r:.200}")
    entries = await _in_thread(lambda: check_archive(bytes(data), limits))
    files = {f"{folder}/{e.path}" if folder else e.path: e.content for e in entries if not e.is_directory}
    for path in files:
        if len(name := path.encode(errors="surrogateescape")) > MAX_PATH:
            refuse(f"into={folder!r:.200} makes its path {len(name):,} bytes, over {MAX_PATH:,}", shown(name))
    for number, (path, content) in enumerate(files.items()):
        try:
            await box.write(path, bytes(content))
        except SandboxFileError as error:
            message = f"{error}; {number} of the archive's {len(files)} files were written before it"
            raise SandboxFileError(message) from error
    return tuple(files)


@dataclass(frozen=True, kw_only=True, slots=True)
class Packed:
    """A workspace as an archive."""

    data: bytes
    """A tar of the regular files. The same files give the same bytes."""
    left_out: tuple[LeftOut, ...]
    """What else was there, and why it is not in the tar; empty when all of it is."""


async def pack(
    box: Sandbox, path: str = ".", *, max_bytes: int = 64 << 20, max_entries: int = 10_000
) -> Packed:
    """The regular files under a directory of the workspace, as long as they fit.

    >>> (await pack(box)).left_out
    (LeftOut(path='link', reason="'link': it is a symbolic link, or lies behind one"),)

    `max_bytes` is for all contents together, `max_entries` for directory entries of any kind.
    """
    found = await harvest(box, path, max_bytes=max_bytes, max_entries=max_entries)
    return Packed(data=await _in_thread(lambda: tar_of(found.files)), left_out=found.left_out)


async def _in_thread(call: Callable[[], T]) -> T:
    """Away from the event loop, which other sandboxes need meanwhile."""
    import asyncio  # loaded with the first use: importing the package stays light

    return await asyncio.to_thread(call)
