"""Archives as no tool makes them: each field of a tar's or zip's headers can be a lie."""

import os
import struct
import zlib
from dataclasses import dataclass, replace
from random import Random

from hypothesis import strategies as st

MODE = 0o644
END = bytes(1024)


def tar_member(
    name: bytes,
    content: bytes = b"",
    *,
    kind: bytes = b"0",
    mode: int = MODE,
    size: int | bytes | None = None,
    magic: bytes = b"ustar\x0000",
    prefix: bytes = b"",
) -> bytes:
    """A header with a true checksum, and its padded content. `size` is the claim, true by default."""
    claim = size if isinstance(size, bytes) else b"%011o\0" % (len(content) if size is None else size)
    fields = (name, b"%07o\0" % mode, b"", b"", claim, b"", b" " * 8, kind, b"/target", magic, b"", b"")
    block = struct.pack("100s8s8s8s12s12s8s1s100s8s32s32s16x155s12x", *fields, prefix)
    return checked(block) + content + bytes(-len(content) % 512)


def checked(block: bytes) -> bytes:
    """A header block with the checksum that its bytes have."""
    total = sum(block[:148]) + sum(block[156:]) + 8 * 32
    return block[:148] + b"%06o\0 " % total + block[156:]


def tar(*members: bytes) -> bytes:
    return b"".join(members) + END


def pax(kind: bytes = b"x", **records: str | bytes) -> bytes:
    """A header that extends the next member; `__` in a key stands for "."."""
    lines = b""
    for key, value in records.items():
        text = (
            key.replace("__", ".").encode() + b"=" + (value if isinstance(value, bytes) else value.encode())
        )
        size = len(text) + 3
        while size != len(b"%d %s\n" % (size, text)):
            size += 1
        lines += b"%d %s\n" % (size, text)
    return tar_member(b"pax", lines, kind=kind)


def long_name(name: bytes) -> bytes:
    """GNU's header for a name over 100 bytes."""
    return tar_member(b"././@LongLink", name + b"\0", kind=b"L")


@dataclass(frozen=True, kw_only=True, slots=True)
class Zipped:
    """One entry; what is None is true to the content."""

    name: bytes
    content: bytes = b""
    packed: bytes | None = None
    size: int | None = None
    crc: int | None = None
    mode: int = 0o100000 | MODE
    flags: int = 0x800
    method: int = 8
    local_name: bytes | None = None
    local_at: int | None = None
    """Where it says that it stands; nothing is written there for it."""


def deflated(content: bytes) -> bytes:
    packer = zlib.compressobj(9, wbits=-15)
    return packer.compress(content) + packer.flush()


def zipped(
    *entries: Zipped,
    count: int | None = None,
    listed: bytes = b"",
    before_end: bytes = b"",
    comment: bytes = b"",
) -> bytes:
    body, directory = b"", b""
    for entry in entries:
        packed = entry.packed
        if packed is None:
            packed = deflated(entry.content) if entry.method == 8 else entry.content
        size = len(entry.content) if entry.size is None else entry.size
        sums = (zlib.crc32(entry.content) if entry.crc is None else entry.crc, len(packed), size)
        common = (20, entry.flags, entry.method, 0, 0x21, *sums)
        at = len(body) if entry.local_at is None else entry.local_at
        name = entry.name if entry.local_name is None else entry.local_name
        if entry.local_at is None:
            body += struct.pack("<4s5H3L2H", b"PK\3\4", *common, len(name), 0) + name + packed
        tail = (len(entry.name), 0, 0, 0, 0, entry.mode << 16, at)
        directory += struct.pack("<4sH5H3L5H2L", b"PK\1\2", 0x314, *common, *tail) + entry.name
    directory += listed
    total = len(entries) if count is None else count
    end = (0, 0, total & 0xFFFF, total & 0xFFFF, len(directory), len(body), len(comment))
    return body + directory + before_end + struct.pack("<4s4H2LH", b"PK\5\6", *end) + comment


def overlapping() -> bytes:
    """A zip whose first entry's stored bytes are the second entry, header and all."""
    inner = Zipped(name=b"inner", content=b"x" * 100, method=0)
    hidden = zipped(inner).partition(b"PK\1\2")[0]
    outer = Zipped(name=b"outer", content=hidden, method=0)
    at = zipped(outer).index(hidden)
    return zipped(outer, replace(inner, local_at=at))


HOSTILE_TARS: dict[str, tuple[bytes, str]] = {
    "absolute": (tar_member(b"/etc/passwd"), "absolute"),
    "absolute by prefix": (tar_member(b"passwd", prefix=b"/etc"), "absolute"),
    "dot-dot": (tar_member(b"a/../../b"), "'a/../../b'.*\\.\\."),
    "dot-dot by long name": (long_name(b"../b") + tar_member(b"a"), "\\.\\."),
    "dot-dot by pax": (pax(path="../b") + tar_member(b"a"), "\\.\\."),
    "symbolic link": (tar_member(b"a", kind=b"2"), "symbolic link.*dereference"),
    "write through a link": (tar_member(b"a", kind=b"2") + tar_member(b"a/b", b"x"), "symbolic link"),
    "hard link": (tar_member(b"a", kind=b"1"), "hard link"),
    "long link": (tar_member(b"a", b"target\0", kind=b"K"), "link"),
    "character device": (tar_member(b"a", kind=b"3"), "character device"),
    "block device": (tar_member(b"a", kind=b"4"), "block device"),
    "fifo": (tar_member(b"a", kind=b"6"), "FIFO"),
    "unknown kind": (tar_member(b"a", kind=b"Z"), "unknown type b'Z'"),
    "sparse": (tar_member(b"a", kind=b"S"), "sparse"),
    "sparse by pax": (pax(GNU__sparse__realsize="1099511627776") + tar_member(b"a"), "sparse"),
    "setuid": (tar_member(b"a", mode=0o4755), "0o4755.*chmod"),
    "setgid directory": (tar_member(b"a", kind=b"5", mode=0o2755), "0o2755"),
    "twice": (tar_member(b"a") * 2, "already made a file"),
    "twice in other words": (tar_member(b"a/b") + tar_member(b"./a//b"), "already"),
    "directory twice": (tar_member(b"a", kind=b"5") * 2, "already made a directory"),
    "file, then directory": (tar_member(b"a") + tar_member(b"a/b"), "'a' is a file"),
    "directory, then file": (tar_member(b"a/b/c") + tar_member(b"a"), "already made a parent"),
    "256 bytes": (long_name(b"a/" + b"c" * 256) + tar_member(b"a"), "256 bytes, over 255"),
    "long path": (long_name(b"abc/" * 1024 + b"d") + tar_member(b"a"), "4,097 bytes, over 4,095"),
    "empty": (tar_member(b""), "empty"),
    "dot": (tar_member(b"./."), "empty"),
    "nul": (pax(path="a\0b") + tar_member(b"a"), "NUL"),
    "nul in the middle of a long name": (long_name(b"a\0b") + tar_member(b"a"), "NUL"),
    "two long names": (long_name(b"a") + pax(path="b") + tar_member(b"c"), "two headers"),
    "two sizes": (pax(size="0") * 2 + tar_member(b"c"), "its second"),
    "size in words": (pax(size="-1") + tar_member(b"c"), "is no number"),
    "size of a thousand digits": (pax(size="1" * 1000) + tar_member(b"c"), "is no number"),
    "name for all": (pax(kind=b"g", path="a") + tar_member(b"b"), "for all members"),
    "broken pax": (tar_member(b"x", b"99 path=a\n", kind=b"x") + tar_member(b"b"), "malformed"),
    "pax without an end": (tar_member(b"x", b"8 path=a", kind=b"x") + tar_member(b"b"), "malformed"),
    "pax of size 1": (tar_member(b"x", b"1 path=a\n", kind=b"x") + tar_member(b"b"), "malformed"),
    "long name of nothing": (long_name(b"a"), "ends after the header"),
    "huge long name": (tar_member(b"x", Random(0).randbytes((1 << 20) + 1), kind=b"L"), "over 1,048,576"),
    "negative size": (tar_member(b"a", size=b"\xff" * 12), "is no number"),
    "octal nonsense": (tar_member(b"a", size=b"00000000009\0"), "is no number"),
    "1 TB": (tar_member(b"a", size=b"\x80" + (1 << 40).to_bytes(11, "big")), "1,099,511,627,776 bytes, and"),
    "directory with content": (tar_member(b"a/", b"x"), "directory, and has 1 bytes"),
    "bad checksum": (tar_member(b"a") + tar_member(b"b").replace(b"b", b"c", 1), "checksum"),
    "something after the end": (END + tar_member(b"b"), "bytes follow its end"),
}
"""Members that no tar may have, and what the refusal says."""

_A = Zipped(name=b"a", content=b"hi")
HOSTILE_ZIPS: dict[str, tuple[bytes, str]] = {
    "absolute": (zipped(Zipped(name=b"/a")), "absolute"),
    "dot-dot": (zipped(Zipped(name=b"../a")), "\\.\\."),
    "symbolic link": (zipped(Zipped(name=b"a", content=b"/etc", mode=0o120777)), "symbolic link"),
    "device": (zipped(Zipped(name=b"a", mode=0o060644)), "block device"),
    "fifo": (zipped(Zipped(name=b"a", mode=0o010644)), "FIFO"),
    "setuid": (zipped(Zipped(name=b"a", mode=0o104755)), "setuid"),
    "twice": (zipped(_A, _A), "already made a file"),
    "file and directory": (zipped(_A, Zipped(name=b"a/b")), "'a' is a file"),
    "directory with content": (zipped(Zipped(name=b"a/", content=b"x")), "directory, and has 1"),
    "directory by its mode": (zipped(Zipped(name=b"a", content=b"x", mode=0o040755)), "directory, and"),
    "long part": (zipped(Zipped(name=b"a" * 256)), "256 bytes, over 255"),
    "nul": (zipped(Zipped(name=b"a\0b")), "NUL"),
    "empty": (zipped(Zipped(name=b"")), "empty"),
    "not utf-8": (zipped(Zipped(name=b"\xff")), "marked as UTF-8"),
    "encrypted": (zipped(Zipped(name=b"a", flags=0x801)), "without encryption"),
    "other method": (zipped(Zipped(name=b"a", method=12)), "method 12"),
    "says less": (zipped(Zipped(name=b"a", content=b"x" * 1000, size=1)), "not the 1 bytes"),
    "says more": (zipped(Zipped(name=b"a", content=b"x", size=1000)), "not the 1,000 bytes"),
    "stored, says less": (zipped(Zipped(name=b"a", content=b"xx", size=1, method=0)), "not the 1 bytes"),
    "wrong sum": (zipped(Zipped(name=b"a", content=b"x", crc=1)), "checksum"),
    "no deflate": (zipped(Zipped(name=b"a", content=b"x", packed=b"\xff\xff")), "cannot be inflated"),
    "more than deflate": (zipped(Zipped(name=b"a", packed=deflated(b"") + b"x")), "not the 0 bytes"),
    "overlap": (overlapping(), "past the start of what comes next"),
    "runs into the directory": (zipped(_A, Zipped(name=b"b", local_at=9)), "tells another"),
    "past the end": (zipped(_A, Zipped(name=b"b", local_at=1 << 30)), "would be at byte 1,073,741,824"),
    "other name": (zipped(Zipped(name=b"a", local_name=b"b")), "another method or name"),
    "counts more": (zipped(_A, count=2), "counts 2 entries, and there are 1"),
    "counts less": (zipped(_A, count=0), "counts 0 entries, and there are 1"),
    "something short in the directory": (zipped(_A, listed=b"PK\1\2"), "directory is cut short at byte"),
    "something else in the directory": (zipped(_A, listed=bytes(99)), "directory is damaged"),
    "an endless name in the directory": (zipped(_A, listed=b"PK\1\2" + b"\xff" * 99), "directory is damaged"),
    "zip64": (zipped(_A, count=0xFFFF), "zip64"),
    "something in between": (zipped(_A, before_end=b"PK"), "does not fit"),
    "an end in the comment": (zipped(_A, comment=zipped()), "does not fit"),
    "trailing bytes": (zipped(_A) + b"x", "does not fit"),
    "cut short": (zipped(_A)[:-1], "no end record"),
}
"""Zips that may not be, and what the refusal says."""

_PARTS = st.one_of(
    st.sampled_from(
        ["-rf", " ", "a\nb", "x" * 255, "é" * 127, "...", "PK\3\4", "~", "*", "\\", "\u202e", "\udcff"]
    ),
    st.binary(min_size=1, max_size=255).map(lambda raw: os.fsdecode(raw.translate(None, b"\0/") or b"_")),
).filter(lambda part: part not in (".", ".."))


def _without_conflicts(drawn: list[tuple[list[str], bytes]]) -> dict[str, bytes]:
    tree: dict[str, bytes] = {}
    folders: set[str] = set()
    for parts, content in drawn:
        path, above = "/".join(parts), {"/".join(parts[:n]) for n in range(1, len(parts))}
        if path not in folders and not above & tree.keys():
            tree[path] = content
            folders |= above
    return dict(sorted(tree.items()))


TREES = st.lists(
    st.tuples(st.lists(_PARTS, min_size=1, max_size=4), st.binary(max_size=1500)), max_size=6
).map(_without_conflicts)
"""Files of a workspace, path -> content, sorted, with the names that programs get wrong."""
