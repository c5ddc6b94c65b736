"""Where a run computes: on the GPU where there is one, unless its recipe says otherwise."""

from pathlib import Path

import pytest

from palaestra.trainer.parts import training_device
from palaestra.trainer.ranks.launch import choose_device
from palaestra.trainer.recipe import Recipe
from palaestra.trainer.recipe_file import RecipeError


@pytest.mark.parametrize(
    ("wanted", "has_gpu", "rank", "found"),
    [
        ("auto", True, None, "cuda:0"),
        ("auto", True, "3", "cuda:3"),
        ("cuda", True, None, "cuda:0"),
        ("cpu", True, "3", "cpu"),
        ("auto", False, "3", "cpu"),
        ("cpu", False, None, "cpu"),
    ],
)
def test_each_rank_has_the_gpu_of_its_number_unless_there_is_none_or_none_is_wanted(
    monkeypatch: pytest.MonkeyPatch, wanted: str, has_gpu: bool, rank: str | None, found: str
) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)
    assert choose_device(wanted, has_gpu=has_gpu) == found


def test_a_gpu_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="torch sees no GPU here"):
        choose_device("cuda", has_gpu=False)


def test_the_recipe_chooses_for_the_learner_and_the_local_engine(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    recipe = Recipe.model_validate(
        {"name": "x", "env": {"id": "arithmetic"}, "model": {"path": tmp_path, "device": "cuda"}}
    )
    if torch.cuda.is_available():
        assert training_device(recipe) == "cuda:0"
    else:
        with pytest.raises(RecipeError, match=r"^model\.device: cuda, and torch sees no GPU"):
            training_device(recipe)
