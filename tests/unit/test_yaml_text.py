"""Numbers of a recipe are numbers, however they are written, and texts are texts."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from palaestra.trainer.recipe_file import load_recipe
from palaestra.trainer.yaml_text import read_yaml, write_yaml

NUMBERS = {
    "3e-3": 0.003,
    "1e5": 1e5,
    "-2E+2": -200.0,
    "1.5e3": 1500.0,
    ".5e1": 5.0,
    "+1e0": 1.0,
    "7.e2": 700.0,
}
TEXTS = ["1e", "e5", "1e5x", "3e-3e", "0x1e3", "1e5 2", "v1e5", "1_e3", "-e1"]
LEAVES: Any = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
VALUES: Any = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@pytest.mark.parametrize("text", NUMBERS)
def test_a_number_in_scientific_notation_is_a_number(text: str) -> None:
    found = read_yaml(f"lr: {text}")["lr"]
    assert isinstance(found, float) and found == NUMBERS[text]
    assert read_yaml(f"lr: '{text}'") == {"lr": text}  # quoted, it is a text


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_no_number_is_read_as_before(text: str) -> None:
    assert read_yaml(text) == yaml.safe_load(text)


@given(VALUES)
def test_what_is_written_is_read_back(value: Any) -> None:
    assert read_yaml(write_yaml(value)) == value


@given(st.from_regex(r"[-+]?[0-9]{0,2}\.?[0-9]{0,2}[eE][-+]?[0-9]{1,2}", fullmatch=True))
def test_a_text_that_looks_like_a_number_stays_a_text(text: str) -> None:
    assert read_yaml(write_yaml([text])) == [text]


def test_a_number_reaches_the_options_of_a_recipe_from_file_and_command_line(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("env: {id: arithmetic}\ngrpo: {loss_options: {clip_low: 3e-3}}\n")
    recipe = load_recipe(path, ["grpo.loss_options.clip_high=5e-1", "optimizer.lr=1e-4", "grpo.steps=1e1"])
    assert recipe.grpo.loss_options == {"clip_low": 0.003, "clip_high": 0.5}
    assert (recipe.optimizer.lr, recipe.grpo.steps) == (1e-4, 10)


def test_a_resolved_recipe_keeps_a_text_that_looks_like_a_number(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("env: {id: arithmetic, options: {revision: '12e34'}}\n")
    recipe = load_recipe(path)
    path.write_text(write_yaml(recipe.model_dump(mode="json")))
    assert load_recipe(path) == recipe
