"""A newcomer adds a loss or an advantage by one file: those of CONTRIBUTING.md, as they stand there."""

import json
import re
from pathlib import Path

import pytest
from support import ROOT
from trainer_builders import make_group, make_learner

from palaestra.trainer import advantages, losses
from palaestra.trainer.advantages import advantage_names
from palaestra.trainer.judge import judge
from palaestra.trainer.losses import loss_names
from palaestra.trainer.recipe import GrpoSection
from palaestra.trainer.reporting.replay import replay_step
from palaestra.trainer.update import Updater


def shown(name: str) -> str:
    """The block of CONTRIBUTING.md that defines a class, up to where it tries it out."""
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (block,) = (
        text for text in re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S) if f"class {name}" in text
    )
    head = "from dataclasses import dataclass\n"
    return (head if head not in block else "") + re.split(r"\n\n\n(?=assert|logprobs_N)", block)[0] + "\n"


@pytest.fixture
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package, name, module in (
        (losses, "SquaredRatio", "squared_ratio"),
        (advantages, "BestOf", "best_of"),
    ):
        folder = tmp_path / package.__name__
        folder.mkdir()
        (folder / f"{module}.py").write_text(shown(name), encoding="utf-8")
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])


@pytest.mark.usefixtures("added")
def test_one_file_each_is_a_loss_and_an_advantage_of_a_recipe() -> None:
    assert "squared_ratio" in loss_names() and "best_of" in advantage_names()
    section = GrpoSection(
        steps=1,
        advantage="best_of",
        advantage_options={"margin": 0.5},
        loss="squared_ratio",
        loss_options={"level": "episode"},
    )
    group = make_group(1.0, 0.25, 1.0)
    accepted = judge([group], section, seed=0, step=0).accepted
    assert [each.advantage for each in accepted] == [0.5, -0.25, 0.5]
    learner = make_learner()
    update = Updater(learner=learner, section=section).update(accepted)
    assert update.metrics["ratio"] == 1.0 and learner.num_steps == 1
    (replayed,) = replay_step(accepted, section, json.loads(json.dumps(update.record)))
    assert replayed.differences == () and replayed.loss == pytest.approx(replayed.stored_loss, abs=1e-9)
