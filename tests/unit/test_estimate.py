"""How large a run is, compared with the model itself."""

from pathlib import Path

import pytest
from tiny_models import tiny_model

from palaestra.trainer.config import LearnerConfig, LoraConfig
from palaestra.trainer.estimate import Estimate, estimate
from palaestra.trainer.learner import Learner
from palaestra.trainer.preflight import check_targets
from palaestra.trainer.recipe import Recipe, TinyModel
from palaestra.trainer.recipe_file import RecipeError
from palaestra.trainer.weights.checkpoint import save_checkpoint
from palaestra.trainer.weights.model import load_model
from palaestra.trainer.weights.tiny import make_tiny_model


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


@pytest.mark.parametrize("targets", [("q_proj", "self_attn.v_proj"), ("o_proj", "lm_head", "up_proj")])
def test_an_adapter_is_counted_by_its_targets(tmp_path: Path, targets: tuple[str, ...]) -> None:
    tiny_model("llama").save_pretrained(tmp_path)
    config = LearnerConfig(lora=LoraConfig(rank=3, targets=targets))
    learner = Learner(load_model(tmp_path), config)
    found = estimate(recipe_of(tmp_path, lora={"rank": 3, "targets": list(targets)}))
    assert found is not None
    assert found.trained_parameters == sum(p.numel() for p in learner.parameters.values())


BIG = {"hidden": 512, "layers": 8, "intermediate": 2048, "vocab": 4096}


def memory(monkeypatch: pytest.MonkeyPatch, ranks: int = 1, **changes: object) -> Estimate:
    monkeypatch.setenv("WORLD_SIZE", str(ranks))
    fields = {"name": "x", "env": {"id": "arithmetic"}, "model": {"tiny": BIG}, **changes}
    found = estimate(Recipe.model_validate(fields))
    assert found is not None
    return found


def test_memory_follows_what_the_recipe_says(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = memory(monkeypatch).memory_mb
    again = memory(monkeypatch, grpo={"activation_checkpointing": True}).memory_mb
    assert again["activations"] < plain["activations"] / 3
    half = memory(monkeypatch, model={"tiny": BIG, "dtype": "bfloat16"}).memory_mb
    assert half["activations"] == pytest.approx(plain["activations"] / 2, abs=1)
    assert half["weights"] == plain["weights"] and half["autocast"] > plain["autocast"] == 0
    both = memory(monkeypatch, ranks=2)
    assert both.ranks == 2 and both.memory_mb["engine"] == plain["engine"]
    assert both.memory_mb["optimizer"] == pytest.approx(plain["optimizer"] / 2, abs=1)
    lora = {"rank": 8}
    whole = memory(monkeypatch, lora=lora).memory_mb["weights"]
    rounded = memory(monkeypatch, lora={**lora, "base_dtype": "bfloat16"}).memory_mb["weights"]
    assert rounded == pytest.approx(whole / 2, rel=0.05)


def test_a_warm_start_of_every_parameter_is_the_larger_stage_before_an_adapter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = {"slots": 1, "max_context": 8}
    alone = memory(monkeypatch, lora={"rank": 8}, engine=engine)
    warm = memory(monkeypatch, lora={"rank": 8}, engine=engine, warm_start={})
    assert (alone.largest_stage, warm.largest_stage) == ("grpo", "warm_start")
    assert warm.memory_mb["optimizer"] > 10 * alone.memory_mb["optimizer"]
    assert warm.trained_parameters == alone.trained_parameters


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")  # peft, of transformers 5
def test_a_run_that_starts_from_another_ones_weights_is_as_large_as_their_model(tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path / "model")
    whole = estimate(recipe_of(tmp_path / "model"))
    learner = Learner(load_model(tmp_path / "model"), LearnerConfig(lora=LoraConfig(rank=2)))
    learner.save(tmp_path / "adapter")
    save_checkpoint(tmp_path / "checkpoint", learner)
    assert whole is not None
    for name in ("model", "adapter", "checkpoint"):
        assert estimate(recipe_of(tmp_path, model={"start": tmp_path / name})) == whole
    (tmp_path / "model" / "config.json").unlink()
    assert estimate(recipe_of(tmp_path, model={"start": tmp_path / "adapter"})) is None


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


@pytest.mark.parametrize(("is_tied", "family"), [(True, "qwen3"), (False, "llama")])
def test_an_adapter_on_a_tied_head_is_refused_before_anything_is_loaded(
    tmp_path: Path, is_tied: bool, family: str
) -> None:
    tiny_model(family).save_pretrained(tmp_path)
    recipe = recipe_of(tmp_path, lora={"targets": ["q_proj", "lm_head"]})
    if is_tied:
        with pytest.raises(
            RecipeError, match=r"^lora\.targets: lm_head is the embeddings too .* leave it out"
        ):
            check_targets(recipe)
    check_targets(recipe_of(tmp_path, lora={"targets": ["q_proj"]}))
    if not is_tied:
        check_targets(recipe)


def test_an_adapter_on_a_layer_that_there_is_not_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    tiny_model("qwen3").save_pretrained(tmp_path)
    words = r"^lora\.targets: the model has no layer 'nope'; it has: .*q_proj"
    for recipe in (
        recipe_of(tmp_path, lora={"targets": ["q_proj", "nope"]}),
        recipe_of(tmp_path, model={"tiny": TinyModel()}, lora={"targets": ["nope"]}),
    ):
        with pytest.raises(RecipeError, match=words):
            check_targets(recipe)
    for model in ({"path": tmp_path}, {"tiny": TinyModel()}):
        check_targets(recipe_of(tmp_path, model=model, lora={"targets": ["mlp.down_proj"]}))
