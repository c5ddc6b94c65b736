"""Tars: plain files and directories, in the V7, ustar, pax and GNU formats.

The standard library's `tarfile` is not for hostile bytes: depending on the version, a negative size loops for
ever, a pax header costs exponential time, and a chain of long names ends in a RecursionError.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .manifest import ArchiveEntry, Manifest, refuse, shown

_BLOCK = 512
_MAX_EXTENSION = 1 << 20
"""Bytes of a header that extends the next one: a long name, or pax records."""
_PAX_RECORD = re.compile(rb"([1-9][0-9]{0,6}) ([^=\n]{1,200})=")
_OTHER_KINDS = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a character device",
    b"4": "a block device",
    b"6": "a FIFO",
    b"K": "a link with a long target",
    b"S": "a sparse file",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Header:
    at: int
    """Where it stands, bytes from the start."""
    name: bytes
    kind: bytes
    size: int
    """Bytes of what follows, as it claims."""
    mode: int


@dataclass(kw_only=True, slots=True)
class _Extension:
    """What headers before a member say about it."""

    name: bytes | None = None
    size: int | None = None


def is_tar(data: bytes) -> bool:
    """Whether it begins with a tar header, or with the end of an empty tar."""
    block = data[:_BLOCK]
    return len(block) == _BLOCK and (not any(block) or _checksums(block)[0] == _checksums(block)[1])


def read_tar(data: bytes | bytearray, manifest: Manifest) -> Iterator[ArchiveEntry]:
    """The members, in order. Refuses all of a tar that is damaged, or has more than files and directories."""
    view = memoryview(data)
    at, extension = 0, _Extension()
    while (header := _header(data, at)) is not None:
        is_member = header.kind not in (b"L", b"g", b"x")
        size = extension.size if is_member and extension.size is not None else header.size
        if not is_member and size > _MAX_EXTENSION:
            refuse(f"its long name or pax records have {size:,} bytes, over {_MAX_EXTENSION:,}", _place(at))
        content = _content(view, header, size)
        at += _BLOCK + size + -size % _BLOCK
        if is_member:
            yield from _member(header, extension, content, manifest)
            extension = _Extension()
        elif header.kind == b"L":
            _extend_name(extension, bytes(content).rstrip(b"\0"), header)
        else:
            _extend_by_pax(extension, bytes(content), header)
    if extension != _Extension():
        refuse("it ends after the header of a long name; make the archive again", _place(at))
    if data.count(0, at) != len(data) - at:
        refuse("bytes follow its end; make the archive again, and do not join two", _place(at))


def _member(
    header: _Header, extension: _Extension, content: memoryview, manifest: Manifest
) -> Iterator[ArchiveEntry]:
    name = header.name if extension.name is None else extension.name
    if header.kind not in (b"\0", b"0", b"5"):
        what = _OTHER_KINDS.get(header.kind, f"of the unknown type {header.kind!r}")
        refuse(
            f"it is {what}; pack only regular files and directories (GNU tar: --dereference "
            "--hard-dereference, no --sparse)",
            shown(name),
        )
    is_directory = header.kind == b"5" or name.endswith(b"/")  # V7 had no type for directories
    path = manifest.claim(name, size=len(content), mode=header.mode, is_directory=is_directory)
    if path:
        yield ArchiveEntry(path=path, is_directory=is_directory, content=content)


def _header(data: bytes | bytearray, at: int) -> _Header | None:
    """The header at that place; None where the tar ends."""
    block = bytes(data[at : at + _BLOCK])
    if len(block) < _BLOCK:
        refuse(f"it stops after {len(data):,} bytes, without its end mark: cut short?", _place(at))
    if not any(block):
        return None
    claimed, actual = _checksums(block)
    if claimed != actual:
        refuse(
            f"the checksum is {claimed}, of bytes that give {actual}: no tar, or a damaged one", _place(at)
        )
    name, prefix = (block[start:end].split(b"\0", 1)[0] for start, end in ((0, 100), (345, 500)))
    if prefix and block[257:263] == b"ustar\0":  # GNU's "ustar " keeps other things there
        name = prefix + b"/" + name
    mode, size = _number(block[100:108]), _number(block[124:136])
    if mode is None or size is None:
        refuse(f"mode {block[100:108]!r} or size {block[124:136]!r} is no number: damaged", _place(at))
    return _Header(at=at, name=name, kind=block[156:157], size=size, mode=mode)


def _content(view: memoryview, header: _Header, size: int) -> memoryview:
    start = header.at + _BLOCK
    if size > len(view) - start:
        refuse(f"it claims {size:,} bytes, and {len(view) - start:,} follow: cut short?", shown(header.name))
    return view[start : start + size]


def _extend_name(extension: _Extension, name: bytes, header: _Header) -> None:
    if extension.name is not None:
        refuse("two headers give the same member a long name; make the archive again", _place(header.at))
    extension.name = name


def _extend_by_pax(extension: _Extension, records: bytes, header: _Header) -> None:
    found = _pax_records(records, header)
    if any(key.startswith(b"GNU.sparse.") for key in found):
        refuse("it is a sparse file; pack it without --sparse", _place(header.at))
    if header.kind == b"g":
        if found:
            refuse(f"it sets {sorted(found)} for all members; make the archive again", _place(header.at))
        return
    if b"path" in found:
        _extend_name(extension, found[b"path"], header)
    if b"size" in found:
        if not re.fullmatch(rb"[0-9]{1,18}", found[b"size"]) or extension.size is not None:
            refuse(f"its size {found[b'size'][:40]!r} is no number, or its second", _place(header.at))
        extension.size = int(found[b"size"])


def _pax_records(records: bytes, header: _Header) -> dict[bytes, bytes]:
    """Those that say where a member's bytes go; times, owners and attributes are not for a sandbox."""
    found: dict[bytes, bytes] = {}
    at = 0
    while at < len(records):
        match = _PAX_RECORD.match(records, at)
        end = at + int(match[1]) if match else 0
        if match is None or not match.end() < end <= len(records) or records[end - 1] != ord("\n"):
            refuse(f"the pax record {records[at : at + 40]!r} is malformed: damaged?", _place(header.at))
        if match[2] in (b"path", b"size") or match[2].startswith(b"GNU.sparse."):
            found[match[2]] = records[match.end() : end - 1]
        at = end
    return {key: value for key, value in found.items() if value}  # an empty value takes one back


def _number(field: bytes) -> int | None:
    """Octal digits, or GNU's binary form; None for what is no count."""
    if field[0] & 0x80:
        return int.from_bytes(field[1:], "big") if field[0] == 0x80 else None
    digits = field.split(b"\0", 1)[0].strip(b" ")
    return int(digits or b"0", 8) if re.fullmatch(rb"[0-7]*", digits) else None


def _checksums(block: bytes) -> tuple[int | None, int]:
    """What the header claims, and what its bytes add up to with the claim itself taken as spaces."""
    return _number(block[148:156]), sum(block) - sum(block[148:156]) + 8 * ord(" ")


def _place(at: int) -> str:
    return f"tar header at byte {at:,}"


def tar_of(files: Iterable[tuple[str, bytes]]) -> bytes:
    """A tar of these (path, content) pairs; the same files give the same bytes, wherever and whenever."""
    import tarfile

    blocks: list[bytes] = []
    for path, content in files:
        head = tarfile.TarInfo(path)
        head.size = len(content)
        # GNU's format takes names that are not UTF-8.
        blocks += head.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape"), content
        blocks.append(bytes(-len(content) % _BLOCK))
    return b"".join((*blocks, bytes(2 * _BLOCK)))
