"""What `palaestra sandbox image` does with the engine, without a mirror or a registry."""

import re
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
    made = image._import(str(tmp_path), "palaestra-test-import:1")
    with open_engine() as (_, api):
        try:
            assert re.fullmatch("sha256:[0-9a-f]{64}", made)
            assert api.inspect_image("palaestra-test-import:1")["Id"] == made
        finally:
            api.remove_image("palaestra-test-import:1")


def test_an_engine_that_takes_no_image_is_told_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    require("docker")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(image, "_run", lambda command, on_line: None)
    monkeypatch.setattr(image, "_pieces", lambda tar: iter([tar.stdout.read()[:0], b"this is no tar" * 100]))
    with pytest.raises(SandboxUnavailable, match="the image could not be imported"):
        image.build(print, tag="palaestra-test-import:2", mirror="http://mirror.invalid")


@pytest.mark.parametrize("tag", ["name", "registry:5000/name", ":1", "name:"])
def test_a_tag_without_a_version_is_refused(tag: str) -> None:
    done = CliRunner().invoke(app, ["sandbox", "image", "--tag", tag])
    assert done.exit_code == 2 and "write name:version" in done.output
