"""What a recipe may not ask of an advantage or a loss, said before anything has been played."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from palaestra.trainer import losses
from palaestra.trainer.advantages import load_advantage
from palaestra.trainer.losses import load_loss
from palaestra.trainer.objective.terms import traits
from palaestra.trainer.preflight import check_advantage, check_loss
from palaestra.trainer.recipe import GrpoSection
from palaestra.trainer.recipe_file import RecipeError, load_recipe

# --- advantages ---

REFUSED: dict[str, tuple[dict[str, Any], tuple[float, float], str]] = {
    "floor": ({"advantage": "max_rl"}, (-1.0, 1.0), "max_rl needs rewards of 0 or more"),
    "floor of a part": (
        {"advantage": "weighted", "advantage_options": {"parts": {"grpo": 1.0, "max_rl": 0.5}}},
        (-1.0, 1.0),
        "weighted needs rewards of 0 or more, and the environment's go down to -1",
    ),
    "two makings up": (
        {"advantage": "gpg", "advantage_options": {"rescale": True}},
        (0.0, 1.0),
        r"gpg with grpo.advantage_options \{'rescale': True\} .* set grpo.zero_variance to keep",
    ),
    "two makings up of a part": (
        {
            "advantage": "weighted",
            "advantage_options": {"parts": {"gpg": 1.0}, "options": {"gpg": {"rescale": True}}},
        },
        (0.0, 1.0),
        r"weighted with grpo.advantage_options \{'parts': .* set grpo.zero_variance to keep",
    ),
    "passes early": ({"advantage": "pass_at_k"}, (0.0, 10.0), "threshold: 1 is where .* from 0 to 10"),
    "never passes": ({"advantage": "pass_at_k"}, (0.0, 0.9), "threshold: 1 is where .* from 0 to 0.9"),
    "never passes by name": (
        {"advantage": "pass_at_k", "advantage_options": {"threshold": 2.0}},
        (0.0, 1.0),
        "threshold: 2",
    ),
    "always passes": (
        {"advantage": "pass_at_k", "advantage_options": {"threshold": 0.0}},
        (0.0, 1.0),
        "threshold: 0",
    ),
    "never passes as a part": (
        {"advantage": "weighted", "advantage_options": {"parts": {"pass_at_k": 1.0}}},
        (0.0, 0.9),
        "threshold: 1",
    ),
    "passes and pays for its length": (
        {"advantage": "pass_at_k", "overlong": {"max_tokens": 100, "cache_tokens": 50}},
        (0.0, 1.0),
        "grpo.overlong: pass_at_k tells by the reward who passes",
    ),
    "passes as a part and pays for its length": (
        {
            "advantage": "weighted",
            "advantage_options": {"parts": {"grpo": 1.0, "pass_at_k": 1.0}},
            "overlong": {"max_tokens": 100, "cache_tokens": 50, "weight": 0.1},
        },
        (0.0, 1.0),
        "grpo.overlong: weighted tells by the reward who passes",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_advantage_that_cannot_do_its_work_is_refused_with_the_reason(case: str) -> None:
    fields, reward_range, words = REFUSED[case]
    with pytest.raises(RecipeError, match=words):
        check_advantage(GrpoSection(**fields), reward_range)


@pytest.mark.parametrize(
    ("fields", "reward_range"),
    [
        ({"advantage": "weighted", "advantage_options": {"parts": {"grpo": 1.0, "max_rl": 0.5}}}, (0.0, 1.0)),
        (
            {"advantage": "gpg", "advantage_options": {"rescale": True}, "zero_variance": "keep"},
            (0.0, 1.0),
        ),
        ({"advantage": "pass_at_k"}, (-1.0, 1.0)),
        ({"advantage": "pass_at_k", "advantage_options": {"threshold": 7.0}}, (0.0, 10.0)),
    ],
)
def test_an_advantage_that_can_is_not(fields: dict[str, Any], reward_range: tuple[float, float]) -> None:
    check_advantage(GrpoSection(**fields), reward_range)


def test_weights_need_what_their_parts_need() -> None:
    parts = {"grpo": 1.0, "max_rl": 1.0, "pass_at_k": 1.0}
    whole: Any = load_advantage("weighted", parts=parts, options={"pass_at_k": {"k": 5}})
    assert (whole.min_size, whole.min_reward, whole.needs_all_groups) == (5, 0.0, False)


# --- losses ---

FILES = {
    "plain": ("class Plain:", "token"),
    "by_constant": ("class ByConstant:\n    aggregation: ClassVar[str] = 'constant'", "constant"),
    "untyped": ("class Untyped:\n    aggregation = 'constant'", "constant"),
    "inherited": ("class Inherited(DrGrpo):", "constant"),
    "its_own": ("class ItsOwn(DrGrpo):\n    aggregation: ClassVar[str] = 'turn'", "turn"),
}
HEAD = """
from dataclasses import dataclass
from typing import ClassVar

from palaestra.trainer.losses.dr_grpo import DrGrpo
from palaestra.trainer.objective.terms import LossTerms, TokenTerms


@dataclass(frozen=True, kw_only=True)
"""
CALL = """

    def __call__(self, tokens: TokenTerms) -> LossTerms:
        return LossTerms(loss_N=-tokens.logprobs_N)
"""


@pytest.mark.parametrize("name", FILES)
def test_a_loss_of_one_file_says_itself_what_it_averages_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    source, aggregation = FILES[name]
    (tmp_path / f"{name}.py").write_text(HEAD + source + CALL, encoding="utf-8")
    monkeypatch.setattr(losses, "__path__", [*losses.__path__, str(tmp_path)])
    assert traits(load_loss(name)).aggregation == aggregation
    is_constant = aggregation == "constant"
    check_loss(GrpoSection(loss=name, aggregation_tokens=64 if is_constant else None))
    with pytest.raises(RecipeError, match=f"grpo.aggregation_tokens: .* grpo.aggregation {aggregation}"):
        check_loss(GrpoSection(loss=name, aggregation_tokens=None if is_constant else 64))


def test_our_losses_are_checked_without_torch() -> None:
    code = (
        "import sys; from palaestra.trainer.losses import loss_names; "
        "from palaestra.trainer.preflight import check_loss; "
        "from palaestra.trainer.recipe import GrpoSection; "
        "names = sorted({*loss_names()} - {'sft', 'dr_grpo'}); "
        "print([check_loss(GrpoSection(loss=name)) for name in names], 'torch' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout == f"{[None] * 7} False\n"


def test_a_loss_that_would_learn_failures_too_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"grpo.loss: sft makes .* let grpo.sft_coefficient add"):
        check_loss(GrpoSection(loss="sft"))
    check_loss(GrpoSection(loss="ppo_clip", sft_coefficient=0.1))


def test_an_average_that_there_is_not_is_refused_when_the_class_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TRL's word for an episode; until the first batch is made nobody else would look at it."""
    source = HEAD + "class ByWord:\n    aggregation: ClassVar[str] = 'sequence'" + CALL
    (tmp_path / "by_word.py").write_text(source, encoding="utf-8")
    monkeypatch.setattr(losses, "__path__", [*losses.__path__, str(tmp_path)])
    with pytest.raises(ValueError, match="aggregation is 'sequence'; it is one of token, episode, turn"):
        load_loss("by_word")
    with pytest.raises(RecipeError, match=r"grpo.loss: aggregation is 'sequence'"):
        check_loss(GrpoSection(loss="by_word"))


@pytest.mark.parametrize("loss", ["ppo_clip", "gspo"])
def test_a_level_that_there_is_not_is_refused(loss: str) -> None:
    with pytest.raises(RecipeError, match=rf"grpo.loss: loss '{loss}': level: 'sequence': "):
        check_loss(GrpoSection(loss=loss, loss_options={"level": "sequence"}))


# --- between the two ---


@pytest.mark.parametrize("correction", ["{level: episode, kind: mask, high: 1.5}", "{high: 3.0}"])
def test_a_correction_that_would_do_nothing_is_refused(tmp_path: Path, correction: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(
        f"env: {{id: arithmetic}}\ngrpo: {{old_policy: engine, correction: {correction}}}\n", encoding="utf-8"
    )
    with pytest.raises(RecipeError, match=r"grpo.correction: .* does nothing with grpo.old_policy: engine"):
        load_recipe(path)
    assert load_recipe(path, ["grpo.old_policy=learner"]).grpo.correction is not None
    assert load_recipe(path, ["grpo.correction=null"]).grpo.correction is None
