"""The folder of a run: whole files, no secrets, and no run mistaken for another."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from palaestra.agents.errors import LedgerError
from palaestra.agents.ledger import Ledger
from palaestra.trainer import run
from palaestra.trainer.folder import (
    QUESTION,
    bring_back,
    check_folder,
    make_folder,
    make_whole,
    open_folder,
    write_whole,
)
from palaestra.trainer.inputs import fingerprint
from palaestra.trainer.recipe import Recipe
from palaestra.trainer.recipe_file import RecipeError
from palaestra.trainer.redaction import redacted
from palaestra.trainer.reporting.progress import Silent


def recipe(runs_dir: Path, **fields: Any) -> Recipe:
    base = {"name": "x", "runs_dir": runs_dir, "env": {"id": "arithmetic"}, "grpo": {"steps": 3}}
    return Recipe.model_validate({**base, **fields})


def start(recipe: Recipe, *, resume: bool = False) -> None:
    """What a run does first."""
    check_folder(recipe, resume=resume)
    make_folder(recipe.folder)
    with Ledger(recipe.folder) as ledger:
        path = recipe.model.path
        open_folder(recipe, ledger, None if path is None else fingerprint(path), resume=resume)


def model(folder: Path, weights: bytes = b"weights") -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(weights)
    return {"path": folder}


def test_a_run_goes_on_only_with_resume_and_with_its_own_recipe(tmp_path: Path) -> None:
    start(recipe(tmp_path))
    start(recipe(tmp_path), resume=True)
    with pytest.raises(RecipeError, match="--resume"):
        start(recipe(tmp_path))
    with pytest.raises(RecipeError, match=r"differs .*: seed was 0, is 1; resume with"):
        start(recipe(tmp_path, seed=1), resume=True)


def test_a_run_that_began_before_there_was_a_grading_section_goes_on_without_one(tmp_path: Path) -> None:
    start(recipe(tmp_path))
    stored = tmp_path / "x" / "recipe.yaml"
    fields = yaml.safe_load(stored.read_text())
    del fields["grading"]
    stored.write_text(yaml.safe_dump(fields))
    start(recipe(tmp_path), resume=True)
    with pytest.raises(RecipeError, match=r"grading\.kind was not there, is 'inline'"):
        start(recipe(tmp_path, grading={"kind": "inline"}), resume=True)


def test_a_refused_resume_lists_every_field_that_differs(tmp_path: Path) -> None:
    start(recipe(tmp_path))
    other = recipe(
        tmp_path, grpo={"steps": 4}, lora={"rank": 2}, env={"id": "arithmetic", "options": {"a": 1}}
    )
    with pytest.raises(RecipeError) as error:
        start(other, resume=True)
    for words in (
        "env.options was {}, is not there",
        "env.options.a was not there, is 1",
        "grpo.steps was 3, is 4",
        "lora was None, is not there",
        "lora.rank was not there, is 2",
    ):
        assert words in str(error.value)


def test_a_run_goes_on_where_it_was_moved_to_and_with_what_changes_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(recipe(tmp_path / "here", model=model(tmp_path / "model")))
    (tmp_path / "here").rename(tmp_path / "there")
    (tmp_path / "there" / "x").rename(tmp_path / "there" / "y")
    moved = model(tmp_path / "model").pop("path").rename(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    free = {"threads": 3, "checkpoint": {"every": 1, "keep": 9}, "engine": {"stuck_after_s": 1.0, "port": 81}}
    fields = {"name": "y", "model": {"path": moved}, **free}
    start(recipe(Path("there"), **fields), resume=True)
    with pytest.raises(RecipeError, match=r"differs .*: engine.slots was 128, is 4;"):
        start(recipe(Path("there"), **fields | {"engine": {"slots": 4}}), resume=True)


def test_the_number_of_threads_is_part_of_a_deterministic_run(tmp_path: Path) -> None:
    start(recipe(tmp_path, deterministic=True, threads=1))
    with pytest.raises(RecipeError, match="threads was 1, is 2"):
        start(recipe(tmp_path, deterministic=True, threads=2), resume=True)


def test_a_run_does_not_go_on_from_another_model_in_the_same_folder(tmp_path: Path) -> None:
    start(recipe(tmp_path, model=model(tmp_path / "model")))
    start(recipe(tmp_path, model=model(tmp_path / "model")), resume=True)
    other = recipe(tmp_path, model=model(tmp_path / "model", b"WEIGHTS"))
    with pytest.raises(RecipeError, match=r"model.path: .* other weights"):
        start(other, resume=True)


FILES = {"data.path": "train.jsonl", "reward.function": "rewards.py", "tools": "tools.py"}


def of_files(folder: Path) -> dict[str, Any]:
    """The fields of a recipe that names four files."""
    for name in (*FILES.values(), "judge.py"):
        (folder / name).write_text("as it was")
    return {
        "env": None,
        "data": {"path": str(folder / "train.jsonl")},
        "reward": {"function": f"{folder / 'rewards.py'}:score"},
        "tools": str(folder / "tools.py"),
        "grading": {"kind": "sandbox", "command": ["judge"], "files": [folder / "judge.py"]},
    }


@pytest.mark.parametrize(("field", "name"), [*FILES.items(), ("grading.files.0", "judge.py")])
def test_a_run_does_not_go_on_when_a_file_of_its_recipe_has_changed(
    field: str, name: str, tmp_path: Path
) -> None:
    asked = recipe(tmp_path, **of_files(tmp_path))
    start(asked)
    start(asked, resume=True)
    path = tmp_path / name
    path.write_text("as it is")
    why = rf"{field}: {path} has changed and is not what {asked.folder} was started with; bring back .* name="
    for _ in range(2):
        with pytest.raises(RecipeError, match=why):
            start(asked, resume=True)
    path.unlink()
    with pytest.raises(RecipeError, match=why):
        start(asked, resume=True)
    path.write_text("as it was")
    start(asked, resume=True)


def test_every_file_that_has_changed_is_named_and_one_that_was_touched_has_not(tmp_path: Path) -> None:
    asked = recipe(tmp_path, **of_files(tmp_path))
    start(asked)
    os.utime(tmp_path / "rewards.py", (1, 1))
    start(asked, resume=True)
    for name in FILES.values():
        (tmp_path / name).write_text("as it is")
    with pytest.raises(
        RecipeError, match=r"data\.path: .*reward\.function: .*tools: .*have changed and are not"
    ):
        start(asked, resume=True)


def test_the_rows_may_be_a_folder_that_was_saved(tmp_path: Path) -> None:
    rows = tmp_path / "rows"
    rows.mkdir()
    for name in ("dataset_info.json", "data-0.arrow"):
        (rows / name).write_text("as it was")
    asked = recipe(tmp_path, env=None, data={"path": str(rows)}, reward={"function": "gsm8k"})
    start(asked)
    start(asked, resume=True)
    (rows / "data-0.arrow").rename(rows / "data-1.arrow")
    with pytest.raises(RecipeError, match=r"data\.path: .* has changed"):
        start(asked, resume=True)


def test_a_run_that_began_before_files_were_remembered_goes_on_and_remembers_them(tmp_path: Path) -> None:
    asked = recipe(tmp_path, **of_files(tmp_path))
    start(asked)
    with Ledger(asked.folder) as ledger:
        ledger.select("DELETE FROM meta WHERE key = 'files'")
    (tmp_path / "tools.py").write_text("as it is")
    start(asked, resume=True)
    (tmp_path / "tools.py").write_text("as it will be")
    with pytest.raises(RecipeError, match=r"tools: .* has changed"):
        start(asked, resume=True)


def test_a_run_that_began_before_groups_were_refilled_goes_on_and_may_tell_other_trackers(
    tmp_path: Path,
) -> None:
    start(recipe(tmp_path))
    stored = tmp_path / "x" / "recipe.yaml"
    fields = yaml.safe_load(stored.read_text())
    del fields["grpo"]["refill"], fields["grpo"]["overlong"], fields["peak_tflops"]
    del fields["evaluation"]["early_stopping"]
    stored.write_text(yaml.safe_dump(fields))
    start(recipe(tmp_path, trackers=["csv"], peak_tflops=2.0), resume=True)
    others: dict[str, dict[str, Any]] = {
        "grpo.refill was not there, is 1": {"grpo": {"steps": 3, "refill": 1}},
        "evaluation.early_stopping.patience": {"evaluation": {"every": 1, "early_stopping": {}}},
    }
    for field, changes in others.items():
        with pytest.raises(RecipeError, match=field):
            start(recipe(tmp_path, **changes), resume=True)


def test_a_run_that_began_before_there_was_a_field_goes_on_when_nobody_has_set_it(tmp_path: Path) -> None:
    asked = recipe(tmp_path, **of_files(tmp_path))
    start(asked)
    stored = asked.folder / "recipe.yaml"
    fields = yaml.safe_load(stored.read_text())
    del fields["reward"]["options"], fields["reward"]["sandbox"], fields["grading"]["answers"]
    stored.write_text(yaml.safe_dump(fields))
    start(asked, resume=True)
    changes = of_files(tmp_path)
    changes["reward"]["options"] = {"rel_tol": 0.5}
    with pytest.raises(RecipeError, match=r"reward\.options\.rel_tol was not there, is 0\.5"):
        start(recipe(tmp_path, **changes), resume=True)


def test_a_recipe_that_cannot_be_read_any_more_is_named(tmp_path: Path) -> None:
    start(recipe(tmp_path))
    (tmp_path / "x" / "recipe.yaml").write_bytes(b"\xff")
    with pytest.raises(RecipeError, match=r"recipe.yaml is not YAML any more"):
        start(recipe(tmp_path), resume=True)
    (tmp_path / "x" / "recipe.yaml").write_text("")
    with pytest.raises(RecipeError, match=r"recipe.yaml is empty"):
        start(recipe(tmp_path), resume=True)


def test_a_run_whose_records_are_gone_does_not_go_on_without_them(tmp_path: Path) -> None:
    """It would train to its end, and report no step."""
    asked = recipe(tmp_path, model=model(tmp_path / "model"))
    start(asked)
    records = asked.folder / "run.sqlite"
    for lose in (lambda: records.write_bytes(b""), records.unlink):
        lose()
        with pytest.raises(RecipeError, match=r"--resume: .*run\.sqlite is gone or empty"):
            start(asked, resume=True)
        assert not records.exists() or records.stat().st_size == 0


def test_who_loses_a_race_for_a_folder_leaves_it_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both looked before either had started."""
    first, second = (
        recipe(tmp_path, seed=1),
        recipe(tmp_path, seed=2, env={"id": "cli_envs:Odd", "held_out": 4}),
    )

    def look(recipe: Recipe, *, resume: bool) -> None:
        """As long as there is nothing to be seen."""

    monkeypatch.setattr(run, "check_folder", look)
    make_folder(first.folder)
    with Ledger(first.folder) as ledger:
        open_folder(first, ledger, None, resume=False)
        with pytest.raises(LedgerError, match="is being written by process"):
            asyncio.run(run.train(second, Silent()))
    with pytest.raises(RecipeError, match="holds a run"):
        asyncio.run(run.train(second, Silent()))
    assert yaml.safe_load((first.folder / "recipe.yaml").read_text())["seed"] == 1


def test_a_run_does_not_take_the_folder_of_an_evaluation(tmp_path: Path) -> None:
    make_folder(tmp_path / "x")
    with Ledger(tmp_path / "x") as ledger:
        ledger.set_meta(QUESTION, "who plays?")
    with pytest.raises(RecipeError, match=r"name: .* holds an evaluation"):
        start(recipe(tmp_path))


def test_nothing_can_be_resumed_where_nothing_was_started(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="there is no run"):
        start(recipe(tmp_path), resume=True)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RecipeError, match="runs_dir: cannot make"):
        start(recipe(tmp_path / "file"))


def test_the_stored_recipe_has_no_secret(tmp_path: Path) -> None:
    options = {"api_key": "sk-canary", "nested": [{"TOKEN": "sk-canary"}], "seed": 1}
    start(recipe(tmp_path, env={"id": "arithmetic", "options": options}))
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


@pytest.mark.parametrize(
    "name",
    [
        "apikey",
        "apiKey",
        "APIKEY",
        "x-api-key",
        "accessKey",
        "auth",
        "Authorization",
        "passwd",
        "credentials",
    ],
)
def test_a_secret_is_known_by_many_names(name: str) -> None:
    assert redacted({"headers": {name: "sk-1"}}) == {"headers": {name: "[redacted]"}}


@pytest.mark.parametrize("name", ["author", "monkey", "tokenizer", "key_file", "token_budget", "secretary"])
def test_what_only_looks_like_a_secret_is_kept(name: str) -> None:
    assert redacted({name: "x", 5: "y"}) == {name: "x", 5: "y"}


def test_a_url_is_kept_without_the_password_in_it() -> None:
    urls = {"url": "http://me:p@ss@host:80/v1?x=a@b", "args": ["--db=postgres://u:pw@h/d", "git://tok@h"]}
    assert redacted(urls) == {
        "url": "http://[redacted]@host:80/v1?x=a@b",
        "args": ["--db=postgres://[redacted]@h/d", "git://[redacted]@h"],
    }
    assert redacted(plain := ["http://host/@me", "me@host", "http://host"]) == plain


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


@pytest.mark.parametrize("dies_at", ["old", "new"])
def test_a_folder_that_is_made_anew_is_not_lost_between_two_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies_at: str
) -> None:
    model, move = tmp_path / "model", Path.rename
    make_whole(model, lambda folder: (folder / "old").touch())

    def rename(self: Path, target: Path) -> Path:
        if (self == model) == (dies_at == "old"):
            raise KeyboardInterrupt
        return move(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        with pytest.raises(KeyboardInterrupt):
            make_whole(model, lambda folder: (folder / "new").touch())
    bring_back(model)
    assert [path.name for path in model.iterdir()] == ["old"]
    make_whole(model, lambda folder: (folder / "new").touch())
    assert [path.name for path in model.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_what_is_whole_has_its_name_on_disk_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced, sync = dict[str, bool](), os.fsync

    def fsync(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        synced[str(path.relative_to(tmp_path))] = any(
            (tmp_path / name).exists() for name in ("file", "model")
        )
        sync(descriptor)

    def fill(folder: Path) -> None:
        (folder / "part").mkdir()
        (folder / "part" / "weights").write_text("1")

    monkeypatch.setattr(os, "fsync", fsync)
    write_whole(tmp_path / "file", "text")
    assert synced == {"file.partial": False, ".": True}
    (tmp_path / "file").unlink()
    synced.clear()
    make_whole(tmp_path / "model", fill)
    inner = ("model.partial", "model.partial/part", "model.partial/part/weights")
    assert synced == {**dict.fromkeys(inner, False), ".": True}
