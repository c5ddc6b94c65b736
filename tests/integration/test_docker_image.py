"""What `palaestra sandbox image` does with the engine, without a mirror or a registry."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import require
from typer.testing import CliRunner

from palaestra.cli.main import app
from palaestra.sandboxes import SandboxUnavailable
from palaestra.sandboxes._docker import image
from palaestra.sandboxes._docker.engine import open_engine

pytestmark = pytest.mark.docker


def test_a_tree_becomes_an_image_whose_id_the_engine_knows(tmp_path: Path) -> None:
    require("docker")
    (tmp_path / "file").write_text("x")
    made = image.import_tree(str(tmp_path), "palaestra-test-import:1")
    with open_engine() as (_, api):
        try:
            assert re.fullmatch("sha256:[0-9a-f]{64}", made)
            assert api.inspect_image("palaestra-test-import:1")["Id"] == made
        finally:
            api.remove_image("palaestra-test-import:1")


def test_an_engine_that_takes_no_image_is_told_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    require("docker")

    def nobody() -> int:
        return 0

    def everywhere(name: str) -> str:
        return f"/usr/bin/{name}"

    def nothing(command: list[str], on_line: image.OnLine) -> None:
        return

    def no_tar(tar: "subprocess.Popen[bytes]") -> Iterator[bytes]:
        assert tar.stdout is not None
        tar.stdout.read()
        yield b"this is no tar" * 100

    monkeypatch.setattr("os.geteuid", nobody)
    monkeypatch.setattr("shutil.which", everywhere)
    monkeypatch.setattr(image, "_run", nothing)
    monkeypatch.setattr(image, "_pieces", no_tar)
    with pytest.raises(SandboxUnavailable, match="the image could not be imported"):
        image.build(print, tag="palaestra-test-import:2", mirror="http://mirror.invalid")


@pytest.mark.parametrize("tag", ["name", "registry:5000/name", ":1", "name:"])
def test_a_tag_without_a_version_is_refused(tag: str) -> None:
    done = CliRunner().invoke(app, ["sandbox", "image", "--tag", tag])
    assert done.exit_code == 2 and "write name:version" in done.output
