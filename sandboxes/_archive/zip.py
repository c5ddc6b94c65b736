"""Zips: stored and deflated, without encryption and without zip64.

The standard library's `zipfile` makes an object of every entry before anyone can count, and older versions
inflate entries that overlap.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from .manifest import ArchiveEntry, Manifest, refuse, shown

_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")
_END = struct.Struct("<4s4H2LH")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_STORED, _DEFLATED = 0, 8
_ENCRYPTED_OR_PATCH = 0x1 | 0x20 | 0x40 | 0x2000
_IS_UTF8 = 0x800
_FILE, _DIRECTORY = 0o100000, 0o040000
_KIND = 0o170000
_KINDS = {
    0o120000: "a symbolic link",
    0o020000: "a character device",
    0o060000: "a block device",
    0o010000: "a FIFO",
    0o140000: "a socket",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Record:
    """One entry of the central directory, as it claims."""

    raw_name: bytes
    path: str
    is_directory: bool
    method: int
    crc: int
    packed: int
    """Compressed bytes."""
    size: int
    """Uncompressed bytes."""
    at: int
    """Where the local header stands."""


def is_zip(data: bytes) -> bool:
    return data[:4] in _MAGIC


def read_zip(data: bytes, manifest: Manifest) -> Iterator[ArchiveEntry]:
    """The entries, in the directory's order. Names, sizes and places are checked before any is inflated."""
    start, end, num_entries = _directory(data)
    records = list(_records(data, start, end, manifest))
    if len(records) != num_entries:
        refuse(
            f"the zip's end record counts {num_entries:,} entries, and there are {len(records):,}: damaged"
        )
    manifest.limits.require_ratio(manifest.num_bytes, len(data))
    places = [_place(data, record) for record in records]
    _require_apart(records, places, start)
    for record, (_, start, end) in zip(records, places, strict=True):
        content = _content(data, start, end, record)
        if record.path:
            yield ArchiveEntry(path=record.path, is_directory=record.is_directory, content=content)


def _directory(data: bytes) -> tuple[int, int, int]:
    """Where the central directory starts and ends, and how many entries it should have."""
    at = data.rfind(b"PK\x05\x06", -_END.size - 0xFFFF)
    if at < 0 or at + _END.size > len(data):
        refuse(f"a zip of {len(data):,} bytes has no end record: cut short?")
    _, disk, first_disk, _, count, size, start, comment = _END.unpack_from(data, at)
    if count == 0xFFFF or 0xFFFFFFFF in (size, start):
        refuse("a zip of 65,535 entries or 4 GiB, or more (zip64), is not read; pack a tar")
    if disk or first_disk or at + _END.size + comment != len(data) or start + size != at:
        refuse(
            f"the zip's end record at byte {at:,} does not fit its {len(data):,} bytes (directory of "
            f"{size:,} bytes at {start:,}, comment of {comment:,}): damaged, in parts, or joined to another"
        )
    return start, at, count


def _records(data: bytes, at: int, end: int, manifest: Manifest) -> Iterator[_Record]:
    while at < end:
        if at + _CENTRAL.size > end:
            refuse(f"the zip's directory is cut short at byte {at:,}; make the archive again")
        fields = _CENTRAL.unpack_from(data, at)
        magic, _, _, flags, method, _, _, crc, packed, size = fields[:10]
        name_size, extra_size, comment_size, _, _, attributes, local_at = fields[10:]
        raw_name = data[at + _CENTRAL.size : at + _CENTRAL.size + name_size]
        at += _CENTRAL.size + name_size + extra_size + comment_size
        if magic != b"PK\x01\x02" or at > end:
            refuse(f"the zip's directory is damaged before byte {at:,}; make the archive again")
        name = _decoded(raw_name, flags)
        if flags & _ENCRYPTED_OR_PATCH or method not in (_STORED, _DEFLATED):
            refuse(
                f"method {method} with flags {flags:#x} is not read; pack it stored or deflated, "
                "without encryption",
                shown(name),
            )
        mode = attributes >> 16
        _require_kind(name, mode)
        is_directory = name.endswith(b"/") or mode & _KIND == _DIRECTORY
        path = manifest.claim(name, size=size, mode=mode, is_directory=is_directory)
        yield _Record(
            raw_name=raw_name,
            path=path,
            is_directory=is_directory,
            method=method,
            crc=crc,
            packed=packed,
            size=size,
            at=local_at,
        )


def _decoded(name: bytes, flags: int) -> bytes:
    """The name in UTF-8. Without the flag for it, the format means the old PC's characters."""
    if not flags & _IS_UTF8:
        return name.decode("cp437").encode()
    try:
        name.decode()
    except UnicodeDecodeError:
        refuse("its name is marked as UTF-8 and is not; rename it", shown(name))
    return name


def _require_kind(name: bytes, mode: int) -> None:
    kind = mode & _KIND
    if kind not in (0, _FILE, _DIRECTORY):
        what = _KINDS.get(kind, f"of the unknown kind {kind:#o}")
        refuse(f"it is {what}; pack only regular files and directories", shown(name))


def _place(data: bytes, record: _Record) -> tuple[int, int, int]:
    """Where an entry's header starts, its content starts, and its content ends."""
    if record.at + _LOCAL.size > len(data):
        refuse(
            f"its header would be at byte {record.at:,} of {len(data):,}: cut short?", shown(record.raw_name)
        )
    magic, _, _, method, _, _, _, _, _, name_size, extra_size = _LOCAL.unpack_from(data, record.at)
    name_at = record.at + _LOCAL.size
    name = data[name_at : name_at + name_size]
    if (magic, method, name) != (b"PK\x03\x04", record.method, record.raw_name):
        refuse(
            f"its header at byte {record.at:,} tells another method or name than the directory: damaged",
            shown(record.raw_name),
        )
    start = name_at + name_size + extra_size
    return record.at, start, start + record.packed


def _require_apart(records: list[_Record], places: list[tuple[int, int, int]], end: int) -> None:
    """Refuse entries that share bytes: a bomb can hold the same ones a thousand times."""
    spans = sorted(
        (at, until, record.raw_name) for record, (at, _, until) in zip(records, places, strict=True)
    )
    for (_, until, name), (following, _, _) in pairwise([*spans, (end, end, b"")]):
        if until > following:
            refuse(
                f"its bytes end at {until:,}, past the start of what comes next at {following:,}: damaged, "
                "or a bomb",
                shown(name),
            )


def _content(data: bytes, start: int, end: int, record: _Record) -> memoryview:
    packed = memoryview(data)[start:end]
    content, is_whole = (packed, True) if record.method == _STORED else _inflated(packed, record)
    if not is_whole or len(content) != record.size:
        refuse(
            f"it is not the {record.size:,} bytes that it claims: damaged, or a bomb", shown(record.raw_name)
        )
    if zlib.crc32(content) != record.crc:
        refuse("its content does not have the checksum that it claims: damaged", shown(record.raw_name))
    return content


def _inflated(packed: memoryview, record: _Record) -> tuple[memoryview, bool]:
    """The content, and whether it ended where it should. Never more than a byte over the claim is made."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        content = inflater.decompress(packed, record.size + 1)
    except zlib.error as error:
        refuse(f"it cannot be inflated ({error}): damaged", shown(record.raw_name))
    return memoryview(content), inflater.eof and not inflater.unused_data
