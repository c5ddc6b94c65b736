"""The file calls as they are made inside a sandbox, on directories that programs have prepared."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palaestra.sandboxes._inside import files
from palaestra.sandboxes._inside.files import Refused


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY)
    yield fd
    os.close(fd)


def read(root: int, path: str, at: int = 0, most: int = 1 << 20) -> bytes:
    pages = files.read(root, path, 1 << 20, at, most)
    with pages.view() as view:
        content = bytes(view)
    pages.close()
    return content


def write(root: int, path: str) -> None:
    files.write(root, path, memoryview(b"written"))


def append(root: int, path: str) -> None:
    files.append(root, path, memoryview(b"appended"))


CALLS = [read, write, append, files.listing, files.remove]
OUTSIDE = [
    "/etc/passwd",
    "/",
    "..",
    "../x",
    "a/../../x",
    "door/passwd",
    "pipe/x",
    "",
    "nul\0",
    "half\ud800",
    "x" * 5000,
]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("path", OUTSIDE)
def test_no_call_leaves_the_workspace(
    root: int, tmp_path: Path, call: Callable[[int, str], object], path: str
) -> None:
    (tmp_path / "door").symlink_to("/etc")
    os.mkfifo(tmp_path / "pipe")
    before = Path("/etc/passwd").read_bytes()
    with pytest.raises((Refused, OSError)):
        call(root, path)
    assert Path("/etc/passwd").read_bytes() == before
    assert not (tmp_path.parent / "x").exists()


@pytest.mark.parametrize("call", [read, write, append])
@pytest.mark.parametrize("name", ["link", "pipe", "folder", "."])
def test_only_regular_files_are_read_and_written(
    root: int, tmp_path: Path, call: Callable[[int, str], object], name: str
) -> None:
    (tmp_path / "target").write_text("kept")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    with pytest.raises((Refused, OSError)):
        call(root, name)
    assert (tmp_path / "target").read_text() == "kept" and (tmp_path / "link").is_symlink()


def test_a_pipe_that_somebody_reads_takes_no_part_of_a_file(root: int, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(Refused, match="regular"):
            append(root, "pipe")
        assert os.read(reader, 99) == b""
    finally:
        os.close(reader)


@given(st.binary(max_size=40), st.integers(1, 12))
def test_a_file_that_is_written_and_read_in_parts_is_whole(content: bytes, part: int) -> None:
    base = Path(f"/tmp/palaestra-parts-{os.getpid()}")
    base.mkdir()
    root = os.open(base, os.O_RDONLY)
    try:
        files.write(root, "a/b", memoryview(content[:part]))
        for at in range(part, len(content), part):
            files.append(root, "a/b", memoryview(content[at : at + part]))
        assert (base / "a" / "b").read_bytes() == content
        assert [read(root, "a/b", at, part) for at in range(0, len(content) + part, part)] == [
            content[at : at + part] for at in range(0, len(content) + part, part)
        ]
    finally:
        files.remove(root, "a")
        os.close(root)
        base.rmdir()


def test_a_file_over_the_limit_is_refused_and_one_that_shrinks_is_read_as_it_is(
    root: int, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    with pytest.raises(Refused, match="max_bytes=4"):
        files.read(root, "file", 4, 0, 99)
    assert read(root, "file", at=9) == b""


def test_replacing_a_file_leaves_its_hard_link_alone(root: int, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    os.link(tmp_path / "a", tmp_path / "b")
    (tmp_path / "a").chmod(0o400)
    write(root, "a")
    assert ((tmp_path / "a").read_text(), (tmp_path / "b").read_text()) == ("written", "old")


def test_a_tree_that_is_deeper_than_any_path_is_removed(root: int, tmp_path: Path) -> None:
    (tmp_path / ".removing-1").write_text("a neighbour")
    at = os.open(tmp_path, os.O_RDONLY)
    for _ in range(500):  # 5,500 bytes of path; the longest is 4,096
        os.mkdir("d" * 10, dir_fd=at)
        below = os.open("d" * 10, os.O_RDONLY, dir_fd=at)
        os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=below))
        os.close(at)
        at = below
    os.close(at)
    files.remove(root, "d" * 10)
    assert files.listing(root, ".") == [".removing-1"]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=6), max_size=12))
def test_a_tree_of_any_shape_is_removed_and_what_its_links_lead_to_is_not(paths: list[list[str]]) -> None:
    base = Path(f"/tmp/palaestra-tree-{os.getpid()}")
    (base / "tree").mkdir(parents=True)
    (base / "spared").write_text("x")
    for path in paths:
        directory = base.joinpath("tree", *path)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "file").write_text("x")
        if not (directory / "link").is_symlink():
            (directory / "link").symlink_to(base / "spared")
    root = os.open(base, os.O_RDONLY)
    try:
        files.remove(root, "tree")
        assert files.listing(root, ".") == ["spared"]
        files.remove(root, "spared")
    finally:
        os.close(root)
        base.rmdir()
