"""docs/recipe.md: each knob of the Nova recipes has a field of ours that there is, or a reason."""

import dataclasses
import re
import shlex
from collections.abc import Callable
from typing import Any, get_args

from pydantic import BaseModel
from support import ROOT

from palaestra.trainer.advantages import load_advantage
from palaestra.trainer.arena import load_arena
from palaestra.trainer.lint import lint
from palaestra.trainer.losses import load_loss
from palaestra.trainer.recipe import Recipe
from palaestra.trainer.recipe_file import load_recipe

NAMES = """
name model_type model_name_or_path model_name data_s3_path output_s3_path reward_lambda_arn
lambda_arn lambda_concurrency_limit mlflow_tracking_uri mlflow_experiment_name mlflow_run_name
replicas generation_replicas rollout_worker_replicas training_batch_size group_size val_batch_size
val_group_size val_random_sample advantage_method advantage_normalization gamma loss_fn
clip_low_threshold clip_high_threshold temperature top_p max_tokens pass_k_values success_threshold
epochs max_steps save_every val_every val_at_start max_sequence_length lora_rank lora_alpha
learning_rate adam_beta1 adam_beta2 adam_eps weight_decay grad_clip_norm lora_plus_lr_ratio
max_concurrency timeout max_retries rollout_tps max_steps_off_policy max_filter_rate
max_repeated_tokens max_ngram_size max_length global_batch_size reasoning_effort shuffle type
age_tolerance number_generation max_new_tokens set_random_seed top_k save_steps save_top_k
refit_freq clip_ratio_high ent_coeff kl_loss_coef loss_scale lr peft_scheme alpha loraplus_lr_ratio
epochCount batchSize learningRate maxPromptLength trainingSamplePerPrompt inferenceMaxTokens
reasoningEffort evalInterval
"""
THEIRS = NAMES.split()
"""Every leaf of the recipes that the page names, and of RFTHyperParameters; a section's name aside."""
OPTIONS: dict[str, Callable[[], Any]] = {
    "grpo.advantage_options": lambda: load_advantage("monte_carlo"),
    "grpo.loss_options": lambda: load_loss("ppo_clip"),
}


PAGE = (ROOT / "docs" / "recipe.md").read_text(encoding="utf-8")


def rows() -> list[tuple[list[str], str, str]]:
    """Their names, ours or "", and the words beside them."""
    found = re.findall(r"^\| (`.*?) \| ?(?:`([\w.]+)` )?\| ?(.*?) ?\|$", PAGE, re.MULTILINE)
    assert len(found) == len(re.findall(r"^\| `", PAGE, re.MULTILINE))
    return [(re.findall(r"`(\w+)`", theirs), ours, why) for theirs, ours, why in found]


def dataclass_fields(kind: Any) -> frozenset[str]:
    return frozenset(getattr(kind, "__dataclass_fields__", ()))


def is_field(name: str) -> bool:
    """Whether a recipe has it: a field of its sections, of a budget, or an option of what it names."""
    section, _, option = name.rpartition(".")
    if section in OPTIONS:
        return option in {field.name for field in dataclasses.fields(OPTIONS[section]())}
    at: Any = Recipe
    for part in name.split("."):
        if isinstance(at, type) and issubclass(at, BaseModel) and part in at.model_fields:
            kinds = at.model_fields[part].annotation
            sections = [kind for kind in (kinds, *get_args(kinds)) if isinstance(kind, type)]
            at = next((kind for kind in sections if kind is not type(None)), None)
        elif part in dataclass_fields(at):
            at = None
        else:
            return False
    return True


def test_every_knob_of_theirs_is_on_the_page_once() -> None:
    listed = [name for theirs, _, _ in rows() for name in theirs]
    assert sorted(listed) == sorted(THEIRS)


def test_every_field_of_ours_on_the_page_is_one_of_a_recipe() -> None:
    assert [ours for _, ours, _ in rows() if ours and not is_field(ours)] == []
    assert [
        name for name in ("grpo.stepps", "optimizer.lr.x", "grpo.loss_options.low") if is_field(name)
    ] == []


def test_a_knob_without_a_field_has_a_reason() -> None:
    assert [theirs for theirs, ours, why in rows() if not ours and len(why) < 10] == []


def test_the_command_of_the_page_sets_other_values_than_the_recipe_and_breaks_no_rule() -> None:
    (line,) = re.findall(r"^palaestra train (.* --dry-run .*)$", PAGE, re.MULTILINE)
    path, _, *words = shlex.split(line)
    assert words[::2] == ["--set"] * len(words[1::2])
    recipe = load_recipe(ROOT / path, words[1::2])
    for override in words[1::2]:
        assert load_recipe(ROOT / path, [override]) != load_recipe(ROOT / path), override
    assert [str(each) for each in lint(recipe, load_arena(recipe))] == []
