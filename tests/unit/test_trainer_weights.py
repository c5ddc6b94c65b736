"""The learner's weights: adapters, the reference policy, what is saved, and models that are refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import tiny_model
from trainer_builders import make_learner, make_llama_learner, on_policy, random_rows

from palaestra.trainer.batches.rows import make_batch
from palaestra.trainer.config import LearnerConfig, LoraConfig
from palaestra.trainer.learner import Learner
from palaestra.trainer.objective.kl import KlPenalty
from palaestra.trainer.schedule import OptimizerConfig
from palaestra.trainer.weights.model import load_model

LORA = LoraConfig(rank=4, alpha=8.0)


# --- adapters and reference ---


def test_a_fresh_adapter_changes_nothing_and_has_no_divergence() -> None:
    plain, learner = make_llama_learner(), make_llama_learner(LearnerConfig(lora=LORA))
    rows = random_rows(4)
    assert learner.logprobs(rows) == plain.logprobs(rows)
    learner.keep_reference()
    rows = on_policy(learner, rows)
    rows = [
        replace(row, ref_logprobs=ref)
        for row, ref in zip(rows, learner.reference_logprobs(rows), strict=True)
    ]
    report = learner.forward_backward(make_batch(rows), kl=KlPenalty(coefficient=1.0))
    assert report.metrics["kl_penalty"] == pytest.approx(0.0, abs=1e-12)
    assert report.metrics["ratio"] == pytest.approx(1.0, abs=1e-6)
    assert all(name.count("lora_") == 1 for name in learner.parameters)


@pytest.mark.parametrize("lora", [None, LORA])
def test_the_reference_stays_where_it_was_while_the_policy_moves(lora: LoraConfig | None) -> None:
    learner = make_llama_learner(LearnerConfig(lora=lora, optimizer=OptimizerConfig(lr=1e-2)))
    rows = random_rows(4)
    before = learner.logprobs(rows)
    learner.keep_reference()
    for _ in range(3):
        learner.forward_backward(make_batch(rows), "sft")
        learner.optim_step()
    after = learner.logprobs(rows)
    assert learner.reference_logprobs(rows) == before
    assert learner.logprobs(rows) == after != before


def test_a_reference_that_was_never_kept_is_refused() -> None:
    with pytest.raises(ValueError, match="keep_reference"):
        make_learner().reference_logprobs(random_rows(1))


def trained_adapter() -> Learner:
    config = LearnerConfig(lora=LORA, optimizer=OptimizerConfig(lr=1e-2))
    learner = make_llama_learner(config)
    learner.forward_backward(make_batch(random_rows(4)), "sft")
    learner.optim_step()
    learner.forward_backward(make_batch(random_rows(4)), "sft")
    learner.optim_step()
    return learner


def test_the_state_for_an_engine_is_the_adapted_model_under_plain_names() -> None:
    learner = trained_adapter()
    plain = tiny_model("llama", num_hidden_layers=1)
    state = learner.state_for_engine()
    assert list(state) == [name for name, _ in plain.named_parameters()]
    untouched = Learner(plain).logprobs(random_rows(4))
    plain.load_state_dict(dict(state))
    rows = random_rows(4)
    for ours, theirs, old in zip(
        learner.logprobs(rows), Learner(plain).logprobs(rows), untouched, strict=True
    ):
        assert ours == pytest.approx(theirs, abs=1e-5)
        assert ours != pytest.approx(old, abs=1e-3)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")  # peft, of transformers 5
def test_what_is_saved_is_what_was_trained(tmp_path: Path) -> None:
    import peft

    learner = trained_adapter()
    rows = random_rows(4)
    learner.save(tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 4, 8.0)
    assert {"q_proj", "down_proj"} < set(config["target_modules"])
    untyped: Any = peft
    plain = tiny_model("llama", num_hidden_layers=1)
    loaded = untyped.PeftModel.from_pretrained(plain, tmp_path / "adapter", is_trainable=True)
    by_peft = Learner(loaded.get_base_model(), LearnerConfig()).logprobs(rows)
    learner.export_merged(tmp_path / "merged")
    merged = Learner(load_model(tmp_path / "merged")).logprobs(rows)
    for ours, adapter, whole in zip(learner.logprobs(rows), by_peft, merged, strict=True):
        assert adapter == ours
        assert whole == pytest.approx(ours, abs=1e-5)


def test_a_fully_trained_model_is_saved_whole_and_has_no_adapter(tmp_path: Path) -> None:
    learner = make_llama_learner()
    learner.save(tmp_path)
    assert Learner(load_model(tmp_path)).logprobs(random_rows(3)) == learner.logprobs(random_rows(3))
    with pytest.raises(ValueError, match="export_merged"):
        learner.export_adapter(tmp_path)


def test_a_second_adapter_on_the_same_model_is_refused() -> None:
    learner = make_llama_learner(LearnerConfig(lora=LORA))
    with pytest.raises(ValueError, match="already has an adapter"):
        Learner(learner.model, LearnerConfig(lora=LORA))


# --- what is refused, and half precision ---


def test_a_wrong_target_is_refused_beside_right_ones() -> None:
    with pytest.raises(ValueError, match=r"lora\.targets: .* 'nope'; it has: down_proj, .*v_proj"):
        make_llama_learner(LearnerConfig(lora=LoraConfig(targets=("q_proj", "nope"))))
    learner = make_llama_learner(LearnerConfig(lora=LoraConfig(targets=("self_attn.q_proj",))))
    assert all(".self_attn.q_proj.lora_" in name for name in learner.parameters)


@pytest.mark.parametrize(("family", "is_tied"), [("qwen3", True), ("llama", False)])
def test_a_head_that_is_the_embeddings_too_takes_no_adapter(family: str, is_tied: bool) -> None:
    config = LearnerConfig(lora=LoraConfig(rank=2, targets=("q_proj", "lm_head")))
    if is_tied:
        with pytest.raises(ValueError, match=r"lora\.targets: 'lm_head' .* leave it out"):
            Learner(tiny_model(family), config)
    else:
        assert Learner(tiny_model(family), config).state_for_engine()["lm_head.weight"].shape == (97, 64)


def test_weights_in_half_precision_are_not_trained() -> None:
    with pytest.raises(ValueError, match="half precision"):
        make_llama_learner(dtype=torch.bfloat16)


def test_bfloat16_computes_near_float32_and_keeps_its_weights() -> None:
    rows = random_rows(4)
    half = make_llama_learner(LearnerConfig(dtype="bfloat16"))
    full = make_llama_learner()
    for left, right in zip(half.logprobs(rows), full.logprobs(rows), strict=True):
        assert left == pytest.approx(right, abs=0.2)
        assert left != right
    half.forward_backward(make_batch(rows))
    half.optim_step()
    assert {parameter.dtype for parameter in half.parameters.values()} == {torch.float32}


def test_a_model_that_bends_its_logits_is_refused() -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    sizes: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "head_dim": 8,
    }
    config = Gemma2Config(
        vocab_size=31, num_attention_heads=2, num_key_value_heads=1, final_logit_softcapping=0.1, **sizes
    )
    with pytest.raises(ValueError, match="Gemma2ForCausalLM changes its logits"):
        Learner(Gemma2ForCausalLM(config))


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no config\.json"):
        load_model(tmp_path)
