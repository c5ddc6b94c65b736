"""Directories that change while a supervisor walks them: it is not led out of the workspace."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest

from palaestra.sandboxes._embedded.disk import DiskMeter
from palaestra.sandboxes._inside import files

UNTOUCHED = 0o555


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory of the user beside the workspace, with things to lose."""
    directory = tmp_path / "outside"
    for name in ("left", "right"):
        (directory / name).mkdir(parents=True)
    return directory


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "workspace").mkdir()
    fd = os.open(tmp_path / "workspace", os.O_RDONLY)
    yield fd
    os.close(fd)


def after_listing(monkeypatch: pytest.MonkeyPatch, change: Callable[[int], None]) -> None:
    """Between any look at a directory and what follows from it, `change` is called with that directory."""
    scandir = os.scandir

    def listed(directory: int) -> AbstractContextManager[list[os.DirEntry[str]]]:
        with scandir(directory) as entries:
            found = list(entries)
        for entry in found:
            entry.stat(follow_symlinks=False)
        change(directory)
        return nullcontext(found)

    monkeypatch.setattr(os, "scandir", listed)


def test_a_meter_gives_no_rights_through_a_link_in_a_directorys_place(
    tmp_path: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = tmp_path / "workspace" / "closed"
    closed.mkdir(parents=True)
    closed.chmod(0)
    outside.chmod(UNTOUCHED)

    def swap(_: int) -> None:
        if not closed.is_symlink():
            closed.rmdir()
            closed.symlink_to(outside)

    after_listing(monkeypatch, swap)
    assert not DiskMeter(str(closed.parent), 1).is_over([])
    assert closed.is_symlink() and outside.stat().st_mode & 0o777 == UNTOUCHED


def test_a_meter_looks_into_a_directory_that_is_closed_to_its_owner(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    (closed / "big").write_bytes(b"x" * (2 << 20))
    closed.chmod(0)
    assert DiskMeter(str(tmp_path), 1).is_over([])


def test_no_directory_is_entered_through_a_link(workspace: int, outside: Path) -> None:
    os.symlink(outside, "link", dir_fd=workspace)
    outside.chmod(UNTOUCHED)
    with pytest.raises(OSError, match="link"):
        files.enter(workspace, "link")
    assert outside.stat().st_mode & 0o777 == UNTOUCHED


def test_a_directory_that_is_moved_away_while_it_is_removed_leads_nowhere(
    workspace: int, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = outside.parent / "workspace" / "tree"
    for name in ("left", "right"):
        (tree / name / "below").mkdir(parents=True)
        (outside / name / "precious").write_text("x")

    def move_away(directory: int) -> None:
        for name in ("left", "right"):
            if (tree / name).exists() and os.path.samestat(os.fstat(directory), (tree / name).stat()):
                (outside / name).rename(outside / "kept")
                (tree / name).rename(outside / name)

    after_listing(monkeypatch, move_away)
    with pytest.raises(FileNotFoundError):
        files.remove(workspace, "tree")
    monkeypatch.undo()
    assert len(list(outside.glob("*/precious"))) == 2


def test_a_disk_limit_that_was_broken_spares_who_cleans_up_and_is_in_force_again(tmp_path: Path) -> None:
    meter, big = DiskMeter(str(tmp_path), 1), tmp_path / "big"

    def is_over() -> bool:
        meter.rest_until = 0.0
        return meter.is_over([])

    for _ in range(2):
        big.write_bytes(b"x" * (2 << 20))
        assert is_over()
        assert not is_over()
        big.unlink()
        meter.renew([])
    deep = tmp_path.joinpath(*["d"] * 140)
    deep.mkdir(parents=True)
    assert is_over() and not is_over()
