"""What an archive may hold: archives of common tools are read, and every other kind of entry is refused."""

import bz2
import gzip
import io
import lzma
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from archives import END, HOSTILE_TARS, HOSTILE_ZIPS, Zipped, long_name, pax, tar, tar_member, zipped

from palaestra.sandboxes import ArchiveRefused
from palaestra.sandboxes._archive.tar import tar_of
from palaestra.sandboxes.archive import check_archive

Packer = Callable[[bytes], bytes]
PACKERS: list[Packer] = [gzip.compress, bz2.compress, lzma.compress]
FILES = {
    "a.txt": b"hi",
    "empty": b"",
    "d/e/f": bytes(range(256)) * 9,
    "-rf": b"x",
    "n" * 255: b"long",
    "é/ñ": b"y",
}


def files(data: bytes) -> dict[str, bytes]:
    return {entry.path: bytes(entry.content) for entry in check_archive(data) if not entry.is_directory}


def by_tarfile(tar_format: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tar_format) as archive:
        folder = tarfile.TarInfo("d")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for path, content in FILES.items():
            info = tarfile.TarInfo(path)
            info.size, info.mtime = len(content), 0.5
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def by_zipfile(method: int) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        archive.mkdir("d")
        for path, content in FILES.items():
            archive.writestr(path, content)
    return out.getvalue()


@pytest.mark.parametrize("packer", [bytes, *PACKERS])
@pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_what_tarfile_writes_is_read(packer: Packer, tar_format: int) -> None:
    assert files(packer(by_tarfile(tar_format))) == FILES


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_what_zipfile_writes_is_read(method: int) -> None:
    assert files(by_zipfile(method)) == FILES


@pytest.mark.parametrize("tar_format", ["v7", "oldgnu", "gnu", "ustar", "posix"])
def test_what_gnu_tar_writes_is_read(tmp_path: Path, tar_format: str) -> None:
    names = {path: content for path, content in FILES.items() if len(path) < 99}
    for path, content in names.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
    command = ["tar", f"--format={tar_format}", "-C", str(tmp_path), "-cf", "-", "."]
    assert files(subprocess.run(command, check=True, capture_output=True).stdout) == names


def test_what_git_archives_is_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("hi")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "a"], ["commit", "-qm", "a"]):
        subprocess.run([*git, *words], check=True)
    for kind in ("tar", "zip"):
        done = subprocess.run([*git, "archive", f"--format={kind}", "HEAD"], check=True, capture_output=True)
        assert files(done.stdout) == {"a": b"hi"}


def test_what_we_write_is_read_by_tarfile_and_holds_nothing_of_its_maker() -> None:
    data = tar_of(FILES.items())
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        members = archive.getmembers()
        read = {member.name: archive.extractfile(member) for member in members}
        assert {path: file.read() for path, file in read.items() if file} == FILES
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in members} == {(0, 0, 0, "", "", 0o644)}


@pytest.mark.parametrize("packer", PACKERS)
def test_compressed_streams_in_a_row_are_one(packer: Packer) -> None:
    whole = tar(tar_member(b"a", b"hi"))
    assert files(packer(whole[:700]) + packer(whole[700:]) + bytes(512)) == {"a": b"hi"}


def test_a_name_that_looks_like_another_format_is_a_name() -> None:
    names = ["PK\3\4", "BZh91AY", "\x1f", "\udc8b"]
    assert list(files(tar_of((name, b"") for name in names))) == names


def test_paths_are_cleaned_and_the_top_itself_is_nothing() -> None:
    top = tar_member(b"./", kind=b"5")
    assert files(tar(top, top, tar_member(b".//a/./b", b"hi"))) == {"a/b": b"hi"}


def test_a_directory_may_follow_what_lies_in_it() -> None:
    entries = check_archive(tar(tar_member(b"a/b"), tar_member(b"a/", kind=b"5")))
    assert [(entry.path, entry.is_directory) for entry in entries] == [("a/b", False), ("a", True)]


def test_the_prefix_counts_in_the_posix_format_only() -> None:
    ours = tar_member(b"b", prefix=b"a")
    theirs = tar_member(b"c", prefix=b"a", magic=b"ustar  \0")
    assert list(files(tar(ours, theirs))) == ["a/b", "c"]


@pytest.mark.parametrize(
    "extended", [long_name(b"other"), pax(path="other"), pax(path=b"other", mtime="1.5")]
)
def test_a_name_in_an_extra_header_replaces_the_name(extended: bytes) -> None:
    assert files(tar(extended, tar_member(b"a", b"hi"), tar_member(b"b"))) == {"other": b"hi", "b": b""}


def test_a_size_in_a_pax_header_replaces_the_size() -> None:
    member = tar_member(b"a", b"hi", size=0)
    assert files(tar(pax(size="2"), member, tar_member(b"b"))) == {"a": b"hi", "b": b""}


def test_a_size_in_binary_is_read() -> None:
    assert files(tar(tar_member(b"a", b"hi", size=b"\x80" + bytes(10) + b"\2"))) == {"a": b"hi"}


def test_names_that_are_not_utf8_are_kept_in_a_tar_and_are_the_old_characters_in_a_zip() -> None:
    assert list(files(tar(tar_member(b"\xff")))) == ["\udcff"]
    assert list(files(zipped(Zipped(name=b"\x82", flags=0)))) == ["é"]


@pytest.mark.parametrize("name", HOSTILE_TARS)
@pytest.mark.parametrize("packer", [bytes, *PACKERS])
def test_a_hostile_tar_is_refused_with_its_reason(name: str, packer: Packer) -> None:
    members, reason = HOSTILE_TARS[name]
    with pytest.raises(ArchiveRefused, match=reason):
        check_archive(packer(tar(tar_member(b"good", b"x"), members)))


@pytest.mark.parametrize("name", HOSTILE_ZIPS)
def test_a_hostile_zip_is_refused_with_its_reason(name: str) -> None:
    data, reason = HOSTILE_ZIPS[name]
    with pytest.raises(ArchiveRefused, match=reason):
        check_archive(data)


NOISE = Random(0).randbytes(5000)
BROKEN = {
    "nothing": (b"", "neither a tar"),
    "a script": (b"#!/bin/sh\n" * 100, "neither a tar"),
    "part of a header": (tar_member(b"a")[:511], "neither a tar"),
    "gzip of a word": (gzip.compress(b"hello"), "cut short"),
    "gzip of a text": (gzip.compress(b"h" * 512), "no tar, or a damaged one"),
    "gzip and more": (gzip.compress(END) + b"x", "bytes follow the end"),
    "gzip without its end": (gzip.compress(END)[:-9], "cut short"),
    "gzip with a wrong sum": (gzip.compress(END)[:-8] + bytes(8), "cannot be read"),
    "damaged gzip": (
        gzip.compress(NOISE)[:2000] + bytes(100) + gzip.compress(NOISE)[2100:],
        "cannot be read",
    ),
    "bzip2 without its end": (bz2.compress(END)[:-1], "cut short"),
    "bzip2 of zeros": (b"BZh9" + bytes(100), "cannot be read"),
    "xz without its end": (lzma.compress(END)[:-1], "cut short"),
    "xz of zeros": (b"\xfd7zXZ\0" + bytes(100), "cannot be read"),
    "no end mark": (tar_member(b"a"), "without its end mark"),
    "half a file": (tar_member(b"a", b"x" * 900)[:1024], "claims 900 bytes, and 512 follow"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_archive_or_half_of_one_is_refused(name: str) -> None:
    data, reason = BROKEN[name]
    with pytest.raises(ArchiveRefused, match=reason):
        check_archive(data)


@pytest.mark.parametrize(("module", "packer"), [("bz2", bz2.compress), ("lzma", lzma.compress)])
def test_a_python_without_a_compression_says_so(
    monkeypatch: pytest.MonkeyPatch, module: str, packer: Packer
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ArchiveRefused, match=r"built without its compression .*compress it with gzip"):
        check_archive(packer(END))


def test_an_empty_archive_is_an_archive() -> None:
    assert check_archive(bytes(10240)) == check_archive(zipped()) == check_archive(gzip.compress(END)) == []
