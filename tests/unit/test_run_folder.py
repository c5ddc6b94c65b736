"""The folder of a run: whole files, no secrets, and no run mistaken for another."""

from pathlib import Path

import pytest
import yaml

from palaestra.trainer.folder import make_whole, open_folder, redacted, write_whole
from palaestra.trainer.recipe import Recipe
from palaestra.trainer.recipe_file import RecipeError


def recipe(runs_dir: Path, **fields: object) -> Recipe:
    base = {"name": "x", "runs_dir": runs_dir, "env": {"id": "arithmetic"}, "grpo": {"steps": 3}}
    return Recipe.model_validate({**base, **fields})


def test_a_run_goes_on_only_with_resume_and_with_its_own_recipe(tmp_path: Path) -> None:
    open_folder(recipe(tmp_path), resume=False)
    open_folder(recipe(tmp_path), resume=True)
    with pytest.raises(RecipeError, match="--resume"):
        open_folder(recipe(tmp_path), resume=False)
    with pytest.raises(RecipeError, match="differs"):
        open_folder(recipe(tmp_path, seed=1), resume=True)


def test_nothing_can_be_resumed_where_nothing_was_started(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="there is no run"):
        open_folder(recipe(tmp_path), resume=True)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RecipeError, match="runs_dir: cannot make"):
        open_folder(recipe(tmp_path / "file"), resume=False)


def test_the_stored_recipe_has_no_secret(tmp_path: Path) -> None:
    options = {"api_key": "sk-canary", "nested": [{"TOKEN": "sk-canary"}], "seed": 1}
    open_folder(recipe(tmp_path, env={"id": "arithmetic", "options": options}), resume=False)
    text = (tmp_path / "x" / "recipe.yaml").read_text()
    assert "sk-canary" not in text
    assert yaml.safe_load(text)["env"]["options"]["seed"] == 1


def test_redaction_goes_by_the_name_of_the_field() -> None:
    plain = {"max_tokens": 3, "api_key_env": "NAME"}
    found = redacted({**plain, "openai_api_key": "x", "password": "", "keys": ["x"]})
    assert found == {
        **plain,
        "openai_api_key": "[redacted]",
        "password": "",
        "keys": "[redacted]",
    }


def test_a_secret_among_arguments_is_blanked_by_its_flag() -> None:
    args = ["--api-key", "sk-1", "sk-2", "--hf-token=hf-1", "--max-num-batched-tokens", "2048"]
    args += ["--max-num-batched-tokens=64", "--seed", "1", "--ssl-keyfile", "a.pem"]
    assert redacted({"args": args})["args"] == [
        *("--api-key", "[redacted]", "[redacted]", "--hf-token=[redacted]"),
        *args[4:],
    ]


def test_what_could_not_be_finished_is_not_there(tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        (folder / "a").write_text("a")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        make_whole(tmp_path / "model", fill)
    assert not (tmp_path / "model").exists()
    make_whole(tmp_path / "model", lambda folder: (folder / "b").touch())
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["b"]


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    write_whole(tmp_path / "f", "old")
    write_whole(tmp_path / "f", "new")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("f", "new")]
