"""The linter of recipes: each rule has a recipe that breaks it, and ours break none."""

from pathlib import Path
from typing import Any

import pytest
from support import ROOT

from palaestra.envs import Env, Task, TaskSet, UserMessage
from palaestra.trainer.arena import Arena, load_arena
from palaestra.trainer.lint import RULES, lint
from palaestra.trainer.recipe import Recipe
from palaestra.trainer.recipe_file import load_recipe

BASE: dict[str, Any] = {"name": "x", "env": {"id": "arithmetic"}, "grpo": {"steps": 3}}
BROKEN: dict[str, dict[str, Any]] = {
    "nearly_greedy": {"sampling": {"temperature": 0.1, "max_tokens": 64}},
    "rows_below_batch": {"grpo": {"steps": 3, "tasks_per_step": 101}},
    "many_epochs": {"grpo": {"steps": 1000}},
    "few_held_out": {"env": {"id": "arithmetic", "held_out": 29}},
    "empty_updates": {"grpo": {"tasks_per_step": 2, "group_size": 8, "updates_per_step": 3}},
    "lonely_siblings": {"grpo": {"kl_coefficient": 0.1, "kl_kind": "k1", "updates_per_step": 5}},
    "pair_groups": {"grpo": {"group_size": 2}},
    "answers_over_context": {"sampling": {"max_tokens": 1024}},
    "rate_far_off": {"optimizer": {"lr": 0.1}},
    "never_kept": {"grpo": {"steps": 20}, "checkpoint": {"every": 20}},
    "long_ones_dropped": {"grpo": {"truncated": "drop"}},
    "never_stopped": {
        "grpo": {"steps": 9},
        "evaluation": {"every": 3, "early_stopping": {"patience": 3}},
        "checkpoint": {"every": 2, "keep_best": 1},
    },
    "best_not_kept": {
        "grpo": {"steps": 9},
        "evaluation": {"every": 2, "early_stopping": {"patience": 3}},
    },
    "lost_ones_replaced": {"grpo": {"refill": 1}},
    "never_overlong": {
        "grpo": {"overlong": {"max_tokens": 200, "cache_tokens": 8}},
        "env": {"id": "arithmetic", "budget": {"max_turns": 3}},
    },
    "late_ones_dropped": {"grading": {"close": "partial"}},
    "no_second_call": {
        "env": None,
        "data": {"path": "rows.jsonl", "held_out": 50},
        "reward": {"function": "lambda_function.py", "timeout_s": 31},
    },
    "ends_before_its_epochs": {"grpo": {"steps": 3, "tasks_per_step": 16, "epochs": 1}},
    "never_read": {"grpo": {"sft_batch": 9}},
    "same_samples": {"evaluation": {"samples": 2, "temperature": 0}},
    "never_told": {"evaluation": {"samples": 4, "pass_at": [2, 8]}},
    "cut_shorter": {"evaluation": {"max_tokens": 32}},
    "not_repeatable": {"deterministic": True, "engine": {"kind": "vllm"}},
    "canary_below_rounding": {
        "model": {"tiny": {}, "dtype": "bfloat16"},
        "engine": {"kind": "vllm", "canary_bound": 1e-3},
    },
    "shuffled": {"grpo": {"shuffle_rewards": True}},
}
FINE = {"sampling": {"max_tokens": 64}, "checkpoint": {"every": 2}}


def tasks(number: int) -> TaskSet:
    return TaskSet([Task(id=f"{n}", messages=(UserMessage(f"{n}"),)) for n in range(number)])


def broken_rules(changes: dict[str, Any]) -> list[str]:
    recipe = Recipe.model_validate({**BASE, **FINE, **changes})
    held_out = recipe.source.held_out or 200
    return [each.rule for each in lint(recipe, Arena(Env, tasks(100), tasks(held_out)))]


def test_every_rule_has_a_recipe_that_breaks_it() -> None:
    assert BROKEN.keys() == RULES.keys()
    assert broken_rules({}) == []


@pytest.mark.parametrize("rule", RULES)
def test_a_recipe_that_breaks_one_rule_is_told_of_that_one(rule: str) -> None:
    assert broken_rules(BROKEN[rule]) == [rule]


def test_an_advice_names_the_field_the_value_and_the_cure() -> None:
    recipe = Recipe.model_validate({**BASE, **FINE, "optimizer": {"lr": 0.1}})
    (advice,) = lint(recipe, Arena(Env, tasks(100), tasks(100)))
    assert str(advice).startswith("optimizer.lr: 0.1 is 250 times what a model of width 128 usually takes")
    assert "leave it out for 0.0004" in str(advice)


def test_the_rate_of_a_chained_run_is_judged_by_the_model_that_it_starts_from(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"hidden_size": 128}')
    chained = {"model": {"start": str(tmp_path)}}
    assert broken_rules({**chained, "optimizer": {"lr": 3e-4}}) == []
    assert broken_rules({**chained, "optimizer": {"lr": 0.1}}) == ["rate_far_off"]
    (tmp_path / "config.json").rename(tmp_path / "adapter_config.json")
    assert broken_rules({**chained, "optimizer": {"lr": 0.1}}) == []  # its model is not there to ask


@pytest.mark.parametrize("name", ["quickstart", "frozen_lake"])
def test_the_recipes_of_the_front_page_break_no_rule(name: str) -> None:
    recipe = load_recipe(ROOT / "examples" / f"{name}.yaml")
    assert [str(each) for each in lint(recipe, load_arena(recipe))] == []


@pytest.mark.parametrize(
    ("at_start", "steps", "is_told"),
    [(True, 30, True), (True, 31, False), (False, 35, True), (False, 40, True), (False, 41, False)],
)
def test_the_first_stall_is_counted_from_the_first_evaluation(
    at_start: bool, steps: int, is_told: bool
) -> None:
    """At step 0, or at step 10: the third one without a better score is at 30, or at 40."""
    changes = {
        "grpo": {"steps": steps},
        "evaluation": {"every": 10, "at_start": at_start, "early_stopping": {"patience": 3}},
        "checkpoint": {"every": 2, "keep_best": 1},
    }
    assert broken_rules(changes) == ["never_stopped"] * is_told
