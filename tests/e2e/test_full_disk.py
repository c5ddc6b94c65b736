"""A full disk stops a run with one paragraph, and loses nothing."""

import os
import subprocess
from collections.abc import Generator
from pathlib import Path

import pytest
from trainings import TINY_RECIPE, Training, check_same

SMALL_KB, MORE_KB = 64, 192

pytestmark = [pytest.mark.alone, pytest.mark.timeout(600)]  # it mounts a file system


@pytest.fixture
def disk(tmp_path: Path) -> Generator[Path, None, None]:
    """A file system of its own, of `SMALL_KB`."""
    folder = tmp_path / "runs"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SMALL_KB}k", "none", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("needs the right to mount a small tmpfs")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_run_goes_on_where_its_disk_was_full_each_time_that_there_is_more_space(
    disk: Path, tmp_path: Path
) -> None:
    whole = Training(tmp_path / "whole", TINY_RECIPE)
    whole.folder.mkdir()
    assert whole.start().wait() == 0
    run, size, codes, failures = Training(tmp_path, TINY_RECIPE), SMALL_KB, list[int](), list[str]()
    while 0 not in codes and size < 4096:
        log = run.log() if codes else ""
        codes.append(run.start().wait())
        said = run.log().removeprefix(log)
        if codes[-1] == 2:
            failures.append(said.partition("palaestra: ")[2])
            assert failures[-1].count("\n") <= 2 and "Traceback" not in said
        size += MORE_KB
        subprocess.run(["mount", "-o", f"remount,size={size}k", str(disk)], check=True)
    assert codes == [2] * (len(codes) - 1) + [0], run.log()
    kinds = ("cannot use the run file", "cannot write", "cannot make")
    assert all(failure.startswith(kinds) for failure in failures)
    assert any(str(run.run / "run.sqlite") in failure for failure in failures)
    assert any("checkpoints/step-" in failure for failure in failures)
    check_same(run, whole)
