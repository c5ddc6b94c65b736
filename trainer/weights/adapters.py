"""LoRA by peft, through typed functions. The model object stays; its layers gain an adapter in place."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .._torch import modules, output_head, plain_errors, read_tensors, seeded
from ..config import LoraConfig
from ..recipe_file import RecipeError
from ..schedule import OptimizerConfig
from .stored import read_settings

_NOT_MERGED = (
    "use_dora",
    "modules_to_save",
    "lora_bias",
    "trainable_token_indices",
    "target_parameters",
    "layer_replication",
    "alora_invocation_tokens",
    "use_qalora",
    "use_bdlora",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
)
"""Settings of peft under which an adapter is more than a product of two matrices on each layer."""
_OLD_NAME = "`is_gradient_checkpointing` is deprecated"
"""peft 0.21 asks transformers 5 for a property under its old name."""
_HALVES = (".lora_A.weight", ".lora_B.weight")
_BY_PEFT = "merge it by peft's merge_and_unload and give the folder of the merged model"
_ITS_OWN = "set base_model_name_or_path in its adapter_config.json to the model that it was trained on"


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
        warnings.filterwarnings("ignore", message=_OLD_NAME)
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


def read_adapter(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(adapter_config.json, the tensors by peft's names). Raises `RecipeError` where one is damaged."""
    settings, file = read_settings(folder / "adapter_config.json"), folder / "adapter_model.safetensors"
    try:
        with plain_errors():
            return settings, read_tensors(file)
    except OSError as error:
        raise RecipeError(f"{file} cannot be read: {error}; bring back what was written there") from error


def expect_plain(settings: Mapping[str, Any], tensors: Iterable[str], folder: Path) -> None:
    """Raise `RecipeError`, which names the field or the tensor, for an adapter that `merged_state` would not
    add in as peft does. `tensors`: their names."""
    odd = [] if settings.get("peft_type", "LORA") == "LORA" else ["peft_type"]
    for field in odd + [field for field in _NOT_MERGED if settings.get(field)]:
        raise RecipeError(f"{folder}: {field} is {settings[field]!r} in its adapter_config.json; {_BY_PEFT}")
    for name in tensors:
        if ".lora_" in name and not name.endswith(_HALVES):
            raise RecipeError(f"{folder} holds {name!r}, which is no half of a linear layer's; {_BY_PEFT}")


def put_in(model: PreTrainedModel, tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Give the model's layers the adapter of a folder, whose tensors are these. Raises `RecipeError`, which
    names the layer, where it is of another model."""
    import peft  # without types

    untyped: Any = peft
    weights = dict(model.named_parameters())
    for name, tensor in tensors.items():
        if not name.endswith(_HALVES):
            continue
        layer, _, half = own_name(name).partition(".lora_")
        shape = weights[f"{layer}.weight"].shape if f"{layer}.weight" in weights else ()
        if tensor.ndim != 2 or tensor.shape[1 if half.startswith("A") else 0] not in shape:
            is_there = f"is {tuple(shape)} there" if shape else "is no layer with weights of its own there"
            raise RecipeError(
                f"{folder} does not fit the model {model.name_or_path}: {layer} {is_there}; {_ITS_OWN}"
            )
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Found missing adapter keys")  # it is said below
            warnings.filterwarnings("ignore", message=_OLD_NAME)
            untyped.PeftModel.from_pretrained(model, str(folder))
    except (RuntimeError, ValueError) as error:
        why = " ".join(str(error).split())
        raise RecipeError(
            f"{folder}: its tensors are not what its adapter_config.json says: {why}"
        ) from error
    ours, theirs = {name for name, _ in model.named_parameters()}, {own_name(name) for name in tensors}
    if odd := (theirs - ours) | {name for name in ours - theirs if ".lora_" in name}:
        raise RecipeError(
            f"{folder} does not fit the model {model.name_or_path}: {min(odd)} is in one alone; {_ITS_OWN}"
        )


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
