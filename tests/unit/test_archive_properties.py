"""Whatever the bytes are, they are refused with `ArchiveRefused` or are entries within the limits."""

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable

import pytest
from archives import TREES, Zipped, checked, pax, tar, tar_member, zipped
from hypothesis import given, settings
from hypothesis import strategies as st

from palaestra.sandboxes import ArchiveLimits, ArchiveRefused
from palaestra.sandboxes._archive.tar import tar_of
from palaestra.sandboxes.archive import ArchiveEntry, check_archive

Packer = Callable[[bytes], bytes]
PACKERS: dict[str, Packer] = {
    "plain": bytes,
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "bzip2": bz2.compress,
    "xz": lzma.compress,
}
LIMITS = ArchiveLimits(max_entries=7, max_bytes=4000)
NAMES = st.sampled_from(
    [b"a", b"a/b", b"b/", b"./a", b"/a", b"../a", b"a/../b", b"", b"a\0b", b"\xff", b"c/d/e"]
)


def entries_or_refusal(data: bytes) -> list[ArchiveEntry] | None:
    """None for a refusal; what was not refused obeys every limit. Any other exception fails the test."""
    try:
        entries = check_archive(data, LIMITS)
    except ArchiveRefused as error:
        assert str(error).startswith("archive")
        return None
    paths = [entry.path for entry in entries]
    above = {path[:at] for path in paths for at, letter in enumerate(path) if letter == "/"}
    assert len(set(paths)) == len(paths) and len({*paths, *above}) <= LIMITS.max_entries
    assert not above & {entry.path for entry in entries if not entry.is_directory}
    assert sum(len(entry.content) for entry in entries) <= LIMITS.max_bytes
    for path in paths:
        parts = path.encode(errors="surrogateescape").split(b"/")
        assert not {b"", b".", b".."} & set(parts) and b"\0" not in b"".join(parts)
        assert max(map(len, parts)) <= 255 and len(path) <= 4095
    return entries


@pytest.mark.parametrize("packer", PACKERS)
@settings(deadline=None)
@given(tree=TREES)
def test_what_is_packed_is_what_is_read(packer: str, tree: dict[str, bytes]) -> None:
    data = tar_of(tree.items())
    entries = check_archive(PACKERS[packer](data))
    assert {entry.path: bytes(entry.content) for entry in entries} == tree
    assert tar_of((entry.path, bytes(entry.content)) for entry in entries) == data


def valid(kind: str) -> bytes:
    """An archive of this kind, with every kind of header."""
    if kind == "zip":
        stored = Zipped(name=b"d/b", content=b"b" * 20, method=0)
        return zipped(Zipped(name=b"a", content=b"hi" * 50), Zipped(name=b"d/"), stored)
    folder = tar_member(b"d/", kind=b"5")
    extended = pax(path="d/" + "n" * 200, size="30") + tar_member(b"d/n", b"x" * 30)
    return PACKERS[kind](tar(folder, extended)[:-1024] + tar_of({"y" * 150: b"y" * 600, "z": b""}.items()))


def mutate(data: bytes, edits: list[tuple[float, str, bytes]]) -> bytes:
    """Each edit overwrites, inserts, deletes, doubles or cuts at a place between 0 and 1."""
    for place, how, new in edits:
        at = int(place * len(data))
        before, after = data[:at], data[at:]
        data = {
            "overwrite": before + new + after[len(new) :],
            "insert": before + new + after,
            "delete": before + after[len(new) :],
            "double": before + after[:512] + after,
            "cut": before,
        }[how]
    return data


def with_true_checksums(data: bytes) -> bytes:
    """So that a tar's reader gets past the checksums of mutated headers."""
    blocks = [data[at : at + 512] for at in range(0, len(data), 512)]
    return b"".join(checked(block) if block[257:262] == b"ustar" else block for block in blocks)


EDITS = st.lists(
    st.tuples(
        st.floats(0, 1, exclude_max=True),
        st.sampled_from(["overwrite", "insert", "delete", "double", "cut"]),
        st.one_of(st.binary(min_size=1, max_size=8), st.sampled_from([b"../", b"/", b"\xff" * 4, b"7777"])),
    ),
    min_size=1,
    max_size=4,
)


@pytest.mark.parametrize("kind", [*PACKERS, "zip"])
def test_the_archives_that_are_mutated_are_good(kind: str) -> None:
    entries = entries_or_refusal(valid(kind))
    assert entries is not None and len(entries) >= 3


@pytest.mark.parametrize("kind", [*PACKERS, "zip"])
@settings(deadline=None, max_examples=200)
@given(edits=EDITS)
def test_a_mutated_archive_is_refused_or_obeys(kind: str, edits: list[tuple[float, str, bytes]]) -> None:
    entries_or_refusal(mutate(valid(kind), edits))


@settings(deadline=None, max_examples=300)
@given(edits=EDITS)
def test_a_mutated_tar_with_true_checksums_is_refused_or_obeys(edits: list[tuple[float, str, bytes]]) -> None:
    entries_or_refusal(with_true_checksums(mutate(valid("plain"), edits)))


@pytest.mark.parametrize("kind", [*PACKERS, "zip"])
def test_every_prefix_of_an_archive_is_refused_but_for_its_padding(kind: str) -> None:
    data = valid(kind)
    whole = entries_or_refusal(data)
    for size in range(len(data)):
        entries = entries_or_refusal(data[:size])
        assert entries is None or (kind == "plain" and size >= len(data) - 512 and entries == whole)


@settings(deadline=None, max_examples=300)
@given(
    members=st.lists(
        st.builds(
            tar_member,
            NAMES,
            st.sampled_from([b"", b"x", b"8 path=a\n", b"12 path=../b\n", b"9 size=1\n", b"y" * 600]),
            kind=st.sampled_from([b"0", b"0", b"0", b"\0", b"5", b"L", b"x", b"g", b"1", b"2", b"6", b"S"]),
            mode=st.sampled_from([0o644, 0o644, 0o755, 0o4755]),
            size=st.sampled_from(
                [None, None, None, 0, 1, 513, (1 << 33) - 1, b"\xff" * 12, b"\x80" + b"\xff" * 11]
            ),
            magic=st.sampled_from([b"ustar\x0000", b"ustar  \0", b""]),
            prefix=st.sampled_from([b"", b"", b"p", b"..", b"/"]),
        ),
        max_size=5,
    )
)
def test_a_tar_of_any_headers_is_refused_or_obeys(members: list[bytes]) -> None:
    entries_or_refusal(tar(*members))


@settings(deadline=None, max_examples=300)
@given(
    entries=st.lists(
        st.builds(
            Zipped,
            name=NAMES,
            content=st.sampled_from([b"", b"x", b"y" * 3000]),
            packed=st.sampled_from([None, None, None, b"", zlib.compress(bytes(9000))[2:-4]]),
            size=st.sampled_from([None, None, None, 0, 1, 4000, (1 << 32) - 1]),
            mode=st.sampled_from([0, 0o100644, 0o100644, 0o040755, 0o120777, 0o104755]),
            flags=st.sampled_from([0, 8, 0x800, 0x801]),
            method=st.sampled_from([0, 8, 8, 9]),
            local_at=st.sampled_from([None, None, None, 0, 40, (1 << 32) - 1]),
        ),
        max_size=4,
    ),
    count=st.sampled_from([None, None, 0, 2, 0xFFFF]),
    comment=st.sampled_from([b"", b"hello", b"PK\5\6"]),
)
def test_a_zip_of_any_headers_is_refused_or_obeys(
    entries: list[Zipped], count: int | None, comment: bytes
) -> None:
    entries_or_refusal(zipped(*entries, count=count, comment=comment))


@settings(deadline=None, max_examples=300)
@given(
    st.one_of(
        st.binary(),
        st.tuples(st.sampled_from([b"PK\3\4", b"PK\5\6", b"\x1f\x8b\x08", b"BZh9"]), st.binary()).map(
            b"".join
        ),
    )
)
def test_any_bytes_are_refused_or_obey(data: bytes) -> None:
    entries_or_refusal(data)
