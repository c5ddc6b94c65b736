"""docs/algorithms.md, held against the folders of advantages and losses."""

import importlib
import re

import pytest
from support import ROOT

from palaestra.trainer.advantages import advantage_names
from palaestra.trainer.losses import load_loss, loss_names
from palaestra.trainer.objective.terms import traits

PAGE = (ROOT / "docs" / "algorithms.md").read_text(encoding="utf-8")


def rows(title: str) -> dict[str, str]:
    """The rows of the table under a heading, by their first cell."""
    (section,) = re.findall(rf"^## {title}$(.*?)^## ", PAGE, re.MULTILINE | re.DOTALL)
    return dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", section, re.MULTILINE))


def test_every_advantage_and_loss_has_a_row() -> None:
    assert sorted({*rows("Advantages")} - {"advantage"}) == advantage_names()
    assert sorted({*rows("Losses")} - {"loss"}) == loss_names()


@pytest.mark.parametrize(("folder", "title"), [("advantages", "Advantages"), ("losses", "Losses")])
def test_the_papers_of_a_row_are_those_of_the_file(folder: str, title: str) -> None:
    for name, row in rows(title).items():
        if name not in ("advantage", "loss"):
            module = importlib.import_module(f"palaestra.trainer.{folder}.{name}")
            for paper in re.findall(r"\d{4}\.\d{5}", row):
                assert paper in (module.__doc__ or ""), name


def test_the_average_of_a_row_is_that_of_the_loss() -> None:
    for name in loss_names():
        assert f" | {traits(load_loss(name)).aggregation} | " in rows("Losses")[name] + " | ", name
