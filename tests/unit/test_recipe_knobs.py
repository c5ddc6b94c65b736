"""Knobs of a recipe do what they say; `docs/recipe.md` has the names that others give them."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from trainer_builders import make_group

from palaestra.agents.engine import Sampling
from palaestra.agents.evaluation import Passing, summarize
from palaestra.agents.trajectory import Group
from palaestra.envs import UserMessage
from palaestra.trainer.parts import learner_config, load_renderer
from palaestra.trainer.preflight import preflight
from palaestra.trainer.recipe import Recipe, TinyModel
from palaestra.trainer.recipe_file import RecipeError, check_recipe, settle
from palaestra.trainer.weights.tiny import make_tiny_model

BASE: dict[str, Any] = {"name": "x", "env": {"id": "cli_envs:Odd", "held_out": 4}}


def recipe_of(**changes: Any) -> Recipe:
    return Recipe.model_validate(BASE | changes)


@pytest.mark.parametrize(
    ("grpo", "steps"),
    [
        ({"steps": 100}, 100),
        ({"steps": 100, "epochs": 1}, 7),
        ({"steps": 100, "epochs": 2.5}, 16),
        ({"steps": 5, "epochs": 2.5}, 5),
        ({"steps": 0, "epochs": 1}, 0),
    ],
)
def test_a_run_ends_with_its_epochs_or_its_steps_whichever_is_first(grpo: dict[str, Any], steps: int) -> None:
    recipe = recipe_of(grpo={"tasks_per_step": 16, **grpo})
    assert settle(recipe, 100).grpo == recipe.grpo.model_copy(update={"steps": steps})


def test_a_schedule_that_falls_in_the_steps_but_not_in_the_epochs_is_refused() -> None:
    optimizer = {"schedule": "cosine", "warmup_steps": 8}
    recipe = recipe_of(grpo={"steps": 100, "epochs": 1, "updates_per_step": 2}, optimizer=optimizer)
    check_recipe(recipe)
    with pytest.raises(RecipeError, match=r"optimizer\.warmup_steps: 8 leaves nothing of the 8 updates"):
        settle(recipe, 64)
    assert settle(recipe, 65).grpo.steps == 5


def test_an_evaluation_samples_as_in_training_unless_it_is_told_otherwise() -> None:
    usual = recipe_of(sampling={"temperature": 0.7, "max_tokens": 9})
    assert usual.evaluation_sampling == usual.training_sampling == Sampling(temperature=0.7, max_tokens=9)
    told = recipe_of(evaluation={"temperature": 0, "top_p": 0.9, "max_tokens": 30})
    assert told.evaluation_sampling == Sampling(temperature=0.0, top_p=0.9, max_tokens=30)
    assert told.training_sampling == Sampling()


def test_the_optimizer_and_the_warm_start_have_an_epsilon_each(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"hidden_size": 128}')
    recipe = recipe_of(optimizer={"eps": 1e-5}, warm_start={"optimizer": {"eps": 1e-6}})
    assert recipe.warm_start is not None
    sections = (recipe.optimizer, recipe.warm_start.optimizer, recipe_of().optimizer)
    found = [learner_config(recipe, section, 5, model=tmp_path).optimizer.eps for section in sections]
    assert found == [1e-5, 1e-6, 1e-8]


def test_an_episode_passes_from_the_threshold_on_and_of_as_many_samples_as_are_asked_for() -> None:
    groups = [make_group(0.5, 0.25, 0.75, 1.0), make_group(0.0, 0.0, 0.0, 0.5)]
    groups = [Group(task_id=f"t{n}", members=group.members) for n, group in enumerate(groups)]
    usual = summarize("test", groups, (0.0, 1.0))
    assert {k: rate.value for k, rate in usual.pass_at.items()} == {1: 0.125, 2: 0.25, 4: 0.5}
    section = recipe_of(evaluation={"success_threshold": 0.5, "pass_at": [3, 8], "samples": 8}).evaluation
    assert section.passing == Passing(threshold=0.5, ks=(3, 8))
    found = summarize("test", groups, (0.0, 1.0), section.passing)
    # 3 of 4 pass, and 1 of 4: pass@1 is their mean; of 3 samples only the second can have none that passes
    assert {k: rate.value for k, rate in found.pass_at.items()} == {1: 0.5, 3: (1 + 0.75) / 2}
    assert found.reward == usual.reward  # which has nothing to do with it


@pytest.mark.parametrize("threshold", [0.0, -1.0, 1.01])
def test_a_threshold_that_everybody_passes_or_nobody_is_refused(threshold: float) -> None:
    recipe = recipe_of(evaluation={"success_threshold": threshold})
    with pytest.raises(RecipeError, match=r"evaluation\.success_threshold: .* rewards are from 0 to 1"):
        asyncio.run(preflight(recipe, trains=False))
    asyncio.run(preflight(recipe_of(evaluation={"success_threshold": 1.0}), trains=False))


def test_a_chat_template_is_told_its_options(tmp_path: Path) -> None:
    make_tiny_model(TinyModel(), tmp_path, ["1 + 2 = 3"])
    template = tmp_path / "chat_template.jinja"
    template.write_text(template.read_text() + "{% if level is defined %}{{ level }}{% endif %}")
    plain, deep = (
        load_renderer(recipe_of(model={"tiny": {}, "template_options": options}), tmp_path)
        for options in ({}, {"level": "1 + 2"})
    )
    said = [UserMessage("3")]
    extra = deep.opening(said, ())[len(plain.opening(said, ())) :]
    assert deep.tokenizer.decode(list(extra)) == "1 + 2"


@pytest.mark.parametrize("name", ["messages", "tools", "add_generation_prompt"])
def test_an_option_of_the_template_that_is_the_conversation_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is what the conversation is rendered from"):
        recipe_of(model={"tiny": {}, "template_options": {name: []}})


@pytest.mark.parametrize(
    "wrong",
    [
        {"grpo": {"epochs": 0}},
        {"optimizer": {"eps": 0}},
        {"evaluation": {"top_p": 0}},
        {"evaluation": {"top_p": 1.1}},
        {"evaluation": {"max_tokens": 0}},
        {"evaluation": {"temperature": -1}},
        {"evaluation": {"pass_at": [0]}},
        {"evaluation": {"success_threshold": float("nan")}},
    ],
)
def test_a_knob_out_of_its_range_is_refused(wrong: dict[str, Any]) -> None:
    (section,) = wrong
    with pytest.raises(ValueError, match=rf"(?m)^{section}\."):
        recipe_of(**wrong)
