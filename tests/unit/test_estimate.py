"""How large a run is, compared with the model itself."""

from pathlib import Path

import pytest
from tiny_models import tiny_model

from palaestra.trainer.config import LearnerConfig, LoraConfig
from palaestra.trainer.estimate import estimate
from palaestra.trainer.learner import Learner
from palaestra.trainer.model import load_model
from palaestra.trainer.recipe import Recipe, TinyModel
from palaestra.trainer.tiny import make_tiny_model


def recipe_of(path: Path, **changes: object) -> Recipe:
    fields = {"name": "x", "env": {"id": "arithmetic"}, "model": {"path": path}, **changes}
    return Recipe.model_validate(fields)


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama"])
def test_the_parameters_of_a_folder_are_counted_out_of_its_files(tmp_path: Path, family: str) -> None:
    model = tiny_model(family)
    model.save_pretrained(tmp_path)
    found = estimate(recipe_of(tmp_path))
    assert found is not None
    # A tied head is the embedding once more, and stands in the file once.
    assert found.parameters == sum(p.numel() for p in model.parameters())
    assert found.trained_parameters == found.parameters


def test_an_adapter_is_counted_by_its_rank(tmp_path: Path) -> None:
    tiny_model("qwen3").save_pretrained(tmp_path)
    learner = Learner(load_model(tmp_path), LearnerConfig(lora=LoraConfig(rank=3)))
    found = estimate(recipe_of(tmp_path, lora={"rank": 3}))
    assert found is not None
    assert found.trained_parameters == sum(p.numel() for p in learner.parameters.values())
    assert found.memory_mb["total"] == sum(mb for name, mb in found.memory_mb.items() if name != "total")


def test_a_tiny_model_is_counted_before_it_is_made(tmp_path: Path) -> None:
    spec = TinyModel(vocab=128, layers=3, hidden=64)
    make_tiny_model(spec, tmp_path, ["1 + 1 = 2"])
    made, planned = estimate(recipe_of(tmp_path)), estimate(recipe_of(tmp_path, model={"tiny": spec}))
    assert made is not None and planned is not None
    # The tokenizer may need less than the vocabulary that was asked for.
    missing = planned.parameters - made.parameters
    assert missing % (2 * spec.hidden) == 0 and 0 <= missing < 0.2 * planned.parameters


def test_a_folder_that_does_not_say_has_no_estimate(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "odd"}')
    assert estimate(recipe_of(tmp_path)) is None
