"""Whose container is whose."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT

from palaestra.cli.train import train
from palaestra.sandboxes._docker import owner


def test_a_process_is_gone_when_it_has_ended_or_its_number_is_anothers() -> None:
    ours = owner.our_label()
    boot, pid, started = ours.split("/")
    assert int(pid) == os.getpid() and not owner.is_gone(ours)
    assert owner.is_gone(f"{boot}/{pid}/{int(started) - 1}") and owner.is_gone(f"another/{pid}/{started}")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        theirs = owner.owner_label(process.pid)
        assert theirs is not None and not owner.is_gone(theirs)
    assert owner.is_gone(theirs)


def test_where_processes_cannot_be_named_each_has_a_name_and_none_counts_as_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def none(pid: int) -> None:
        return None

    monkeypatch.setattr(owner, "owner_label", none)
    assert f"/{os.getpid()}/" in owner.our_label() and owner.our_label() == owner.our_label()
    assert not owner.is_gone(owner.our_label()) and not owner.is_gone("")


def test_a_container_is_labelled_with_the_run_that_palaestra_train_names_unless_the_user_did(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(owner.RUN_VARIABLE, "")
    assert owner.labels()["palaestra.run"] == f"process-{os.getpid()}"
    monkeypatch.delenv(owner.RUN_VARIABLE)
    recipe = ROOT / "examples" / "frozen_lake.yaml"
    for name in ("first", "second"):
        train(recipe, [f"runs_dir={tmp_path}", f"name={name}"], dry_run=True)
        assert owner.labels()["palaestra.run"] == "first"
