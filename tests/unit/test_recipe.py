"""Recipes: what is read, what is overridden, and how a wrong one is explained."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from palaestra.envs.graders import FinQA, Gsm8k, UnitTests
from palaestra.sandboxes import SandboxSpec
from palaestra.trainer.arena import load_arena
from palaestra.trainer.recipe import Recipe
from palaestra.trainer.recipe_file import RecipeError, load_recipe
from palaestra.trainer.schedule import model_width, usual_rate

MINIMAL = {"name": "x", "env": {"id": "arithmetic"}, "grpo": {"steps": 3}}


def write(folder: Path, content: object) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def test_a_minimal_recipe_trains_a_tiny_model(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, MINIMAL))
    assert recipe.model.tiny is not None
    assert recipe.folder == Path("runs/x")


def test_every_field_can_be_overridden(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL)
    sets = ["grpo.steps=7", "env.budget.max_turns=2", "lora.rank=4", "env.tasks.config={min_terms: 2}"]
    recipe = load_recipe(path, sets)
    assert recipe.grpo.steps == 7
    assert recipe.env is not None
    assert recipe.env.budget.max_turns == 2
    assert recipe.lora is not None and recipe.lora.rank == 4
    assert recipe.env.tasks == {"config": {"min_terms": 2}}


def test_a_resolved_recipe_reads_back_as_itself(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, MINIMAL), ["env.budget.wall_s=60", "lora.rank=4"])
    dumped = tmp_path / "resolved.yaml"
    dumped.write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    assert load_recipe(dumped) == recipe


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (["grpo.group_sise=4"], ["grpo.group_sise", "no such field", "group_size"]),
        (["grpo.steps=-1"], ["grpo.steps", "-1", "greater than or equal to 0"]),
        (["grpo.steps=0"], ["grpo.steps", "0", "warm_start"]),
        (["model.start=/nowhere"], ["model.start", "/nowhere", "runs/NAME"]),
        (["grpo.group_size=1"], ["grpo.group_size", "1", "greater than or equal to 2"]),
        (["grpo.min_group=9"], ["grpo.min_group", "9", "grpo.group_size=8", "lower it"]),
        (["env.budget.max_trns=3"], ["env.budget.max_trns", "max_turns"]),
        (["model.path=/nowhere", "model.tiny.layers=2"], ["model", "exactly one"]),
        (["model.path=/nowhere"], ["model.path", "/nowhere", "model.tiny"]),
        (["engine.kind=sglang"], ["engine.kind", "sglang", "'local' or 'vllm'"]),
        (["name=a/b"], ["name", "a/b"]),
        (["steps"], ["--set", "a.b=value"]),
        (["model.tiny.heads=3"], ["model.tiny.hidden", "128", "model.tiny.heads=3", "129 is one"]),
        (["model.tiny.kv_heads=3"], ["model.tiny.heads", "8", "model.tiny.kv_heads=3", "9 is one"]),
        (["model.tiny.head_dim=15"], ["model.tiny.head_dim", "15", "16 is one"]),
        (["optimizer.betas=[2, 3]"], ["optimizer.betas.0", "2", "less than 1", "optimizer.betas.1"]),
        (["optimizer.lr=.inf"], ["optimizer.lr", "inf", "finite number"]),
        (["sampling.temperature=1e-300"], ["sampling.temperature", "1e-300", "0.01"]),
        (["sampling.temperature=.inf"], ["sampling.temperature", "inf", "finite number"]),
        (["env.budget.wall_s=.nan"], ["env.budget.wall_s", "nan", "finite number"]),
        (["lora.targets=[]"], ["lora.targets", "[]", "at least 1 item"]),
        (["seed=12345678901234567890123"], ["seed", "12345678901234567890123", "less than"]),
        (["threads=100000"], ["threads", "100000", "less than or equal to 1024"]),
        (["seed=-1"], ["seed", "-1", "greater than or equal to 0"]),
        (['runs_dir="a\\0b"'], ["runs_dir", "NUL", "leave it out"]),
        (["name.first=x"], ["name.first=x", "holds a value"]),
        (["sampling.top_p=0.9"], ["sampling.top_p", "bias every ratio", "leave it out"]),
        (["sampling.top_k=20"], ["sampling.top_k", "bias every ratio"]),
        (
            ["engine.kind=vllm", "lora.rank=4", "engine.args=[--logprobs-mode, raw_logprobs]"],
            ["engine.args", "--logprobs-mode", "bias", "after its temperature"],
        ),
        (["grpo.refill=-1"], ["grpo.refill", "-1", "greater than or equal to 0"]),
        (["grpo.refill=17"], ["grpo.refill", "17", "less than or equal to 16"]),
        (["grpo.overlong={max_tokens: 9}"], ["grpo.overlong.cache_tokens", "is missing"]),
        (
            ["grpo.overlong={max_tokens: 9, cache_tokens: 0}"],
            ["grpo.overlong.cache_tokens", "0", "greater than"],
        ),
        (
            ["grpo.overlong={max_tokens: 9, cache_tokens: 10}"],
            ["grpo.overlong.cache_tokens: 10", "max_tokens=9", "lower it"],
        ),
        (
            ["grpo.overlong={max_tokens: 9, cache_tokens: 4, weight: 0}"],
            ["grpo.overlong.weight", "greater than 0"],
        ),
        (["grpo.truncated=skip"], ["grpo.truncated", "skip", "'keep', 'mask' or 'drop'"]),
        (["evaluation.early_stopping={}"], ["evaluation.early_stopping", "set evaluation.every"]),
        (
            ["evaluation.every=1", "evaluation.early_stopping={patience: 0}"],
            ["evaluation.early_stopping.patience", "0", "greater than 0"],
        ),
        (
            ["evaluation.every=1", "evaluation.early_stopping={min_delta: -1}"],
            ["evaluation.early_stopping.min_delta", "-1", "greater than or equal to 0"],
        ),
        (["peak_tflops=0"], ["peak_tflops", "0", "greater than 0"]),
        (["trackers=[{kind: csv, aliases: [azure]}]"], ["trackers.0.aliases.0", "azure", "'sagemaker'"]),
        (["grpo.kl_kind=k4"], ["grpo.kl_kind", "k4", "'k1', 'k2' or 'k3'"]),
        (["grpo.correction.high=0.5"], ["grpo.correction.high", "0.5", "greater than or equal to 1"]),
    ],
)
def test_a_wrong_field_is_named_with_its_value_and_the_cure(
    tmp_path: Path, sets: list[str], words: list[str]
) -> None:
    with pytest.raises(RecipeError) as error:
        load_recipe(write(tmp_path, MINIMAL), sets)
    assert [word for word in words if word not in str(error.value)] == []


def test_all_wrong_fields_are_reported_at_once(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as error:
        load_recipe(write(tmp_path, MINIMAL), ["grpo.steps=-1", "seed=x"])
    assert "grpo.steps" in str(error.value) and "seed" in str(error.value)


@pytest.mark.parametrize(
    ("content", "word"), [("name: [", "not YAML"), ("- a", "YAML mapping"), ("", "YAML mapping")]
)
def test_a_file_that_is_no_recipe_is_explained(tmp_path: Path, content: str, word: str) -> None:
    with pytest.raises(RecipeError, match=word):
        load_recipe(write(tmp_path, content))


def test_a_missing_file_is_explained(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="No such file"):
        load_recipe(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("sets", "name"),
    [
        (["optimizer.warmup_steps=3", "optimizer.schedule=cosine"], "optimizer.warmup_steps: 3"),
        (
            ["warm_start.steps=5", "warm_start.optimizer={schedule: linear, warmup_steps: 9}"],
            "warm_start.optimizer.warmup_steps: 9",
        ),
    ],
)
def test_a_schedule_that_has_no_time_to_fall_is_refused(tmp_path: Path, sets: list[str], name: str) -> None:
    path = write(tmp_path, MINIMAL)
    with pytest.raises(RecipeError, match=name):
        load_recipe(path, sets)
    load_recipe(path, [*sets, "optimizer.schedule=constant", "warm_start.optimizer={}"])


def test_rows_and_a_reward_are_a_recipe(tmp_path: Path) -> None:
    path = tmp_path / "ticket routing.yaml"
    path.write_text("data: train.jsonl\nreward: my_rewards.py:score\n")
    recipe = load_recipe(path)
    assert (recipe.name, recipe.source.id, recipe.source_field) == ("ticket-routing", "train.jsonl", "data")
    assert recipe.reward is not None and recipe.reward.function == "my_rewards.py:score"
    assert recipe.reward.options == {} and recipe.reward.range == (0.0, 1.0)
    dumped = tmp_path / "resolved.yaml"
    dumped.write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    assert load_recipe(dumped) == recipe


def test_fields_of_rows_and_reward_can_be_overridden_where_they_are_one_word(tmp_path: Path) -> None:
    path = write(tmp_path, {"data": "train.jsonl", "reward": "lambda_function.py"})
    recipe = load_recipe(path, ["data.held_out=5", "reward.batch=1", "data.budget.max_turns=3"])
    assert recipe.data is not None and recipe.reward is not None
    assert (recipe.data.path, recipe.data.held_out, recipe.source.budget.max_turns) == ("train.jsonl", 5, 3)
    assert recipe.reward.call == {"batch": 1}
    other = load_recipe(path, ["data=other.jsonl"])
    assert other.source.id == "other.jsonl"


@pytest.mark.parametrize(
    ("reward", "grader"),
    [
        ({"function": "finqa", "options": {"rel_tol": 0.2}}, FinQA(rel_tol=0.2)),
        ({"function": "gsm8k", "options": {"method": "strict"}}, Gsm8k(method="strict")),
        (
            {"function": "code", "options": {"sandbox": {"memory_mb": 64}}},
            UnitTests(sandbox=SandboxSpec(memory_mb=64)),
        ),
    ],
)
def test_a_reward_of_a_recipe_has_the_options_that_it_names(
    reward: dict[str, Any], grader: Any, tmp_path: Path
) -> None:
    assert load_arena(of_rows(tmp_path, reward)).env.grader == grader


@pytest.mark.parametrize(
    ("reward", "why"),
    [
        ({"function": "finqa", "options": {"rel_tol": "big"}}, "reward: preset 'finqa': rel_tol: 'big': "),
        ({"function": "gsm8k", "batch": 4}, "reward: preset 'gsm8k': batch: 4: no such field"),
        ({"function": "gsm8k", "option": {}}, "reward.option: no such field; did you mean 'options'"),
        ({"function": "r.py", "sandbox": {"pids": 9}}, "reward: sandbox: .* only with where: sandbox"),
        ({"function": "r.py", "where": "sandbox", "sandbox": {"pid": 9}}, "reward.sandbox.pid: 9: "),
        ({"function": "r.py", "where": "sandbox", "sandbox": {"pids": 0}}, "reward.sandbox: .*pids must be"),
        ({"function": "r.py", "batch": 2, "options": {"batch": 3}}, "reward.options.batch: stands in"),
    ],
)
def test_a_reward_of_a_recipe_that_does_not_fit_is_explained(
    reward: dict[str, Any], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.py").write_text("def lambda_handler(event, context): ...")
    with pytest.raises(RecipeError, match=why):
        load_arena(of_rows(tmp_path, reward))


def test_rewards_whose_squares_no_gradient_can_hold_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"reward\.range: .*1e\+301.*up to 1e\+15.*scale them down"):
        of_rows(tmp_path, {"function": "r.py", "range": [0, 1e301]})


def of_rows(folder: Path, reward: dict[str, Any]) -> Recipe:
    rows = folder / "rows.jsonl"
    rows.write_text("".join(f'{{"prompt": "{n}", "reference_answer": "1"}}\n' for n in range(9)))
    return load_recipe(write(folder, {"data": str(rows), "reward": reward}))


def test_files_beside_the_recipe_are_found_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = {"data": "train.jsonl", "reward": "my_rewards.py:score", "tools": "my_tools.py"}
    path = write(tmp_path, fields)
    for name in ("train.jsonl", "my_rewards.py", "my_tools.py"):
        (tmp_path / name).touch()
    recipe = load_recipe(path)
    assert recipe.reward is not None
    assert recipe.source.id == str(tmp_path / "train.jsonl")
    assert recipe.reward.function == f"{tmp_path / 'my_rewards.py'}:score"
    assert recipe.tools == str(tmp_path / "my_tools.py")
    monkeypatch.chdir(tmp_path)
    assert load_recipe(path).source.id == "train.jsonl"


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({}, "exactly one of `env` and `data`"),
        ({"env": {"id": "arithmetic"}, "data": "a.jsonl", "reward": "r.py:f"}, "exactly one of"),
        ({"data": "a.jsonl"}, "`data` and `reward` come together"),
        ({"env": {"id": "arithmetic"}, "reward": "r.py:f"}, "`data` and `reward` come together"),
        ({"env": {"id": "arithmetic"}, "tools": "t.py"}, "`tools` are for the rows"),
        ({"data": "a.jsonl", "reward": {"function": "r.py", "wher": "sandbox"}}, "did you mean 'where'"),
        ({"data": "a.jsonl", "reward": {"function": "r.py", "range": [1, 0]}}, "range"),
    ],
)
def test_a_recipe_plays_one_thing(tmp_path: Path, fields: dict[str, object], word: str) -> None:
    with pytest.raises(RecipeError, match=word):
        load_recipe(write(tmp_path, {"name": "x", **fields}))


def test_a_rate_that_nobody_names_follows_the_width_of_the_model(tmp_path: Path) -> None:
    widths = (8, 128, 896, 2560, 8192)
    rates = [usual_rate(width) for width in widths]
    assert rates == sorted(rates, reverse=True) and (rates[0], rates[-1]) == (1e-3, 1e-6)
    assert usual_rate(896, is_adapter=True) == 10 * usual_rate(896)
    for config, width in (({"hidden_size": 64}, 64), ({"text_config": {"hidden_size": 32}}, 32), ({}, 2560)):
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert model_width(tmp_path) == width


def test_whole_models_are_not_published_to_a_server_of_somebody_else(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    server = ["engine.kind=vllm", "engine.url=http://x", f"model.path={tmp_path}"]
    with pytest.raises(RecipeError, match=r"engine\.url: http://x .* `lora:`"):
        load_recipe(write(tmp_path, MINIMAL), server)
    assert load_recipe(write(tmp_path, MINIMAL), ["engine.kind=vllm"]).lora is None
