"""LoRA by peft, through typed functions. The model object stays; its layers gain an adapter in place."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .._torch import modules, output_head, plain_errors, seeded
from ..config import LoraConfig
from ..schedule import OptimizerConfig


def add_adapter(model: PreTrainedModel, config: LoraConfig, seed: int) -> Any:
    """Freeze the model and give it a fresh adapter. Returns peft's model, which `save_adapter` takes."""
    import peft  # without types

    untyped: Any = peft
    if hasattr(model, "peft_config"):
        raise ValueError("the model already has an adapter; load it again, or train it without `lora`")
    targets = _linear_layers(model) if config.targets == "all-linear" else _checked(model, config.targets)
    settings = untyped.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
    with seeded(seed), warnings.catch_warnings():
        # peft 0.21 asks transformers 5 for a property under its old name.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
        return untyped.get_peft_model(model, settings)


def _linear_layers(model: PreTrainedModel) -> list[str]:
    """Last names of all linear layers but the head. (peft's own "all-linear" puts whole paths on record.)"""
    head = output_head(model)
    found = {
        name.rpartition(".")[2]
        for name, module in modules(model)
        if isinstance(module, nn.Linear) and module is not head
    }
    return sorted(found)


def _checked(model: PreTrainedModel, targets: Sequence[str]) -> list[str]:
    """The targets, each of which is there: peft passes over a wrong name beside a right one."""
    linear = {f".{name}": module for name, module in modules(model) if isinstance(module, nn.Linear)}
    untyped: Any = model
    head: Any = output_head(model)
    is_tied = untyped.get_input_embeddings().weight is head.weight
    for target in targets:
        if is_tied and any(module is head for name, module in linear.items() if name.endswith(f".{target}")):
            raise ValueError(
                f"lora.targets: {target!r} is the embeddings too in this model (tie_word_embeddings), and an "
                "adapter on it cannot be merged into both; leave it out"
            )
        if not any(name.endswith(f".{target}") for name in linear):
            known = ", ".join(_linear_layers(model))
            raise ValueError(f"lora.targets: the model has no linear layer {target!r}; it has: {known}")
    return list(targets)


def parameter_groups(
    parameters: Mapping[str, Tensor], optimizer: OptimizerConfig, lora: LoraConfig | None
) -> list[dict[str, Any]]:
    """AdamW's groups: what decays and what does not, and an adapter's B with a rate of its own (LoRA+)."""
    groups = dict[tuple[float, float], list[Tensor]]()
    for name, parameter in parameters.items():
        decay = optimizer.weight_decay if parameter.ndim >= 2 else 0.0
        ratio = lora.lr_ratio if lora is not None and ".lora_B." in name else 1.0
        groups.setdefault((decay, ratio), []).append(parameter)
    return [
        {"params": members, "weight_decay": decay, "lr_ratio": ratio}
        for (decay, ratio), members in groups.items()
    ]


def save_adapter(adapted: Any, tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Write adapter_config.json and adapter_model.safetensors, as peft and vLLM read them. `tensors`: the
    adapter's, whole, by the names that they have in the model."""
    named = {f"base_model.model.{name}": tensor for name, tensor in tensors.items()}
    with plain_errors():
        adapted.save_pretrained(str(folder), state_dict=named, save_embedding_layers=False)


def own_name(name: str) -> str:
    """The name here of a parameter that peft has written under a name of its own.

    >>> own_name("base_model.model.lm.q_proj.lora_A.weight")
    'lm.q_proj.lora_A.default.weight'
    """
    for half in ("lora_A", "lora_B"):
        name = name.replace(f".{half}.weight", f".{half}.default.weight")
    return name.removeprefix("base_model.model.")


def merged_state(model: PreTrainedModel, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every parameter under the name it has without an adapter, the adapter added in.

    `weights`: all of the model's, whole, by name; copied only where an adapter was added. A base in half
    precision and its adapter add up to float32: a small step would be lost to rounding.
    """
    state = {name.replace(".base_layer.", "."): w for name, w in weights.items() if ".lora_" not in name}
    with torch.no_grad():
        for name, module in modules(model):
            if not hasattr(module, "get_delta_weight"):
                continue
            down, up = (weights[f"{name}.lora_{half}.default.weight"] for half in "AB")
            delta: Tensor = (up @ down) * module.scaling["default"]
            weight = state[f"{name}.weight"]
            exact = torch.promote_types(weight.dtype, delta.dtype)
            delta = delta.T if module.fan_in_fan_out else delta
            state[f"{name}.weight"] = weight.to(exact) + delta.to(exact)
    return state
