"""Adapters that peft made and we did not: merged as peft merges them, or refused in words."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from tiny_models import manual_seed, tiny_model
from trainer_builders import random_rows

from palaestra.trainer._torch import read_tensors
from palaestra.trainer.batches.rows import make_batch
from palaestra.trainer.config import LearnerConfig, LoraConfig
from palaestra.trainer.learner import Learner
from palaestra.trainer.recipe_file import RecipeError
from palaestra.trainer.schedule import OptimizerConfig
from palaestra.trainer.weights.lineage import find_origin, write_whole_model
from palaestra.trainer.weights.model import load_model, write_model

pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated"),  # peft, of transformers 5
    pytest.mark.filterwarnings("ignore:.*tie_word_embeddings"),
    pytest.mark.filterwarnings("ignore:Setting .save_embedding_layers. to"),
]
PEFT: Any = peft
IDS = torch.tensor([[3, 5, 7, 9, 11]])
Settings = dict[str, Any]


def base(folder: Path, family: str = "llama", **changes: Any) -> Path:
    model = tiny_model(family, **changes)
    write_model(model, dict(model.named_parameters()), folder)
    return folder


def adapter(model: Path, folder: Path, **settings: Any) -> Any:
    """Save an adapter with every tensor of it random; peft's model."""
    kind = settings.pop("kind", PEFT.LoraConfig)
    usual: Settings = {"task_type": "CAUSAL_LM", "target_modules": ["q_proj", "down_proj"]}
    manual_seed(1)
    adapted = PEFT.get_peft_model(load_model(model), kind(**usual | settings))
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    adapted.save_pretrained(str(folder))
    return adapted


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS).logits
    return found


def loaded(folder: Path) -> Any:
    """As anybody would."""
    untyped: Any = transformers
    return untyped.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.mark.parametrize(
    "settings",
    [
        {"r": 4, "lora_alpha": 16},
        {"r": 4, "lora_alpha": 16, "use_rslora": True},
        {"r": 4, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"down_proj": 32}},
        {"r": 4, "layers_to_transform": [1]},
        {"r": 4, "target_modules": "all-linear", "exclude_modules": ["k_proj"]},
        {"r": 4, "target_modules": ["lm_head", "v_proj"]},
        {"r": 4, "target_modules": ["v_proj"], "bias": "all"},
        {"r": 4, "target_modules": ["v_proj"], "bias": "lora_only"},
        {"r": 4, "init_lora_weights": "pissa"},
        {"r": 4, "init_lora_weights": "gaussian", "lora_dropout": 0.5},
    ],
    ids=str,
)
def test_an_adapter_is_merged_as_peft_merges_it(tmp_path: Path, settings: Settings) -> None:
    model = base(tmp_path / "model", "qwen2", tie_word_embeddings=False)  # it has biases
    adapted = adapter(model, tmp_path / "adapter", **settings)
    expected = logits(adapted.eval())
    write_whole_model(find_origin(tmp_path / "adapter"), tmp_path / "whole")
    assert float((logits(loaded(model)) - expected).abs().max()) > 0.05
    torch.testing.assert_close(logits(loaded(tmp_path / "whole")), expected, atol=2e-5, rtol=1e-4)


REFUSED: dict[str, tuple[Settings, str]] = {
    "dora": ({"use_dora": True}, "use_dora is True in its adapter_config.json"),
    "saved": ({"modules_to_save": ["lm_head"]}, r"modules_to_save is \['lm_head'\]"),
    "lora_bias": ({"lora_bias": True}, "lora_bias is True"),
    "tokens": ({"trainable_token_indices": [3, 4]}, r"trainable_token_indices is \[3, 4\]"),
    "alora": ({"alora_invocation_tokens": [3, 4]}, r"alora_invocation_tokens is \[3, 4\]"),
    "embeddings": ({"target_modules": ["embed_tokens", "q_proj"]}, "holds 'base_model.model.model.embed_tok"),
    "ia3": ({"kind": PEFT.IA3Config, "feedforward_modules": ["down_proj"]}, "peft_type is 'IA3'"),
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # peft's own, of some of these
@pytest.mark.parametrize("name", REFUSED)
def test_what_would_be_merged_wrongly_is_refused_with_the_cure(tmp_path: Path, name: str) -> None:
    settings, words = REFUSED[name]
    adapter(base(tmp_path / "model"), tmp_path / "adapter", **settings)
    with pytest.raises(
        RecipeError, match=f"adapter.* {words}.*; merge it by peft's merge_and_unload and give"
    ):
        write_whole_model(find_origin(tmp_path / "adapter"), tmp_path / "whole")
    assert not (tmp_path / "whole").exists()


def test_a_head_that_is_the_embeddings_too_is_refused(tmp_path: Path) -> None:
    adapter(base(tmp_path / "model", "qwen2"), tmp_path / "adapter", target_modules=["lm_head", "q_proj"])
    with pytest.raises(RecipeError, match="lm_head is no layer with weights of its own there"):
        write_whole_model(find_origin(tmp_path / "adapter"), tmp_path / "whole")


def truncated(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])


def emptied(folder: Path) -> None:
    (folder / "adapter_model.safetensors").write_bytes(b"")


def lost(folder: Path) -> None:
    (folder / "adapter_model.safetensors").unlink()


def cut_short(folder: Path) -> None:
    file = folder / "adapter_config.json"
    file.write_text(file.read_text()[:20])


def another_rank(folder: Path) -> None:
    change(folder, r=8)


def other_layers(folder: Path) -> None:
    change(folder, target_modules=["q_proj", "down_proj", "up_proj"])


def no_base(folder: Path) -> None:
    change(folder, base_model_name_or_path=None)


def of_a_hub(folder: Path) -> None:
    change(folder, base_model_name_or_path="some/model")


def change(folder: Path, **settings: object) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (truncated, "adapter_model.safetensors cannot be read: .*; bring back what was written there"),
        (emptied, "adapter_model.safetensors cannot be read"),
        (lost, "adapter_model.safetensors cannot be read: .*No such file"),
        (cut_short, "adapter_config.json cannot be read"),
        (another_rank, "its tensors are not what its adapter_config.json says"),
        (other_layers, "does not fit the model .*up_proj.* is in one alone"),
        (no_base, "base_model_name_or_path in its adapter_config.json is None, .* set it to the folder"),
        (of_a_hub, "base_model_name_or_path in its adapter_config.json is 'some/model'"),
    ],
)
def test_a_damaged_adapter_is_refused_with_its_file(
    tmp_path: Path, damage: Callable[[Path], None], words: str
) -> None:
    adapter(base(tmp_path / "model"), tmp_path / "adapter", r=4)
    damage(tmp_path / "adapter")
    with pytest.raises(RecipeError, match=words):
        write_whole_model(find_origin(tmp_path / "adapter"), tmp_path / "whole")
    assert not (tmp_path / "whole").exists()


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"num_hidden_layers": 1}, r"layers\.1\..* is no layer with weights of its own there"),
        ({"hidden_size": 32}, r"down_proj is \(32, 96\) there"),
        ({"num_hidden_layers": 3}, r"layers\.2\..* is in one alone"),
    ],
)
def test_an_adapter_of_another_base_is_refused(tmp_path: Path, other: Settings, words: str) -> None:
    adapter(base(tmp_path / "model"), tmp_path / "adapter", r=4)
    base(tmp_path / "other", **other)
    change(tmp_path / "adapter", base_model_name_or_path=str(tmp_path / "other"))
    with pytest.raises(RecipeError, match=f"{words}; set base_model_name_or_path"):
        write_whole_model(find_origin(tmp_path / "adapter"), tmp_path / "whole")


@pytest.mark.parametrize("lora", [None, LoraConfig(rank=4, targets=("q_proj", "lm_head"))])
def test_what_is_exported_has_the_learners_logits_in_transformers(
    tmp_path: Path, lora: LoraConfig | None
) -> None:
    config = LearnerConfig(lora=lora, optimizer=OptimizerConfig(lr=1e-2))
    learner = Learner(load_model(base(tmp_path / "model")), config)
    learner.forward_backward(make_batch(random_rows(4)), "sft")
    learner.optim_step()
    learner.save(tmp_path / "policy")
    write_whole_model(find_origin(tmp_path / "policy"), tmp_path / "whole")
    whole = loaded(tmp_path / "whole")
    torch.testing.assert_close(logits(whole), logits(learner.model), atol=2e-5, rtol=1e-4)
    assert whole.state_dict().keys() == load_model(tmp_path / "model").state_dict().keys()
    if lora is not None:  # and the adapter as peft puts it on
        adapted = PEFT.PeftModel.from_pretrained(load_model(tmp_path / "model"), str(tmp_path / "policy"))
        torch.testing.assert_close(logits(adapted.eval()), logits(learner.model))
        names = set(read_tensors(tmp_path / "policy" / "adapter_model.safetensors"))
        assert len(names) == 2 * (2 + 1), names


@pytest.mark.parametrize("settings", [{"use_rslora": True}, {"alpha_pattern": {"q_proj": 32}}])
def test_a_learner_takes_no_adapter_whose_layers_are_scaled_otherwise(
    tmp_path: Path, settings: Settings
) -> None:
    model = base(tmp_path / "model")
    adapter(model, tmp_path / "adapter", r=4, lora_alpha=16, **settings)
    lora = LoraConfig(rank=4, alpha=16.0, targets=("q_proj", "down_proj"))
    learner = Learner(load_model(model), LearnerConfig(lora=lora))
    with pytest.raises(ValueError, match=rf"{next(iter(settings))} is .* --continue"):
        learner.load(tmp_path / "adapter")
