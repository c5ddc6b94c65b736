"""How large a run is, before anything is loaded: parameters, tokens, memory. Imports without torch.

Parameters are exact for a tiny model and for a folder of safetensors. Memory is an estimate of the trainer's
own process: weights, gradients, AdamW's two moments, a reference, the local engine with its cache, and what
one micro-batch keeps for its backward pass.
"""

import json
import struct
from dataclasses import dataclass
from math import ceil, prod
from pathlib import Path
from typing import Any

from .config import usual_chunk
from .recipe import Recipe, TinyModel

_FLOAT = 4
"""Bytes: what is trained is held in float32."""
_KEPT_PER_LAYER = 16
"""Times [tokens, hidden] floats that a layer keeps for the backward pass (Korthikanti et al., arXiv
2205.05198, with a fused attention)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSize:
    """The figures of a model that memory depends on."""

    parameters: int
    layers: int
    hidden: int
    intermediate: int
    kv_width: int
    """Key heads times their width."""
    heads_width: int
    """Query heads times their width."""
    vocab: int

    @property
    def adapted(self) -> int:
        """Inputs plus outputs of all linear layers but the head: an adapter of rank r has r times as many
        parameters."""
        attention = 2 * (self.hidden + self.heads_width) + 2 * (self.hidden + self.kv_width)
        return self.layers * (attention + 3 * (self.hidden + self.intermediate))


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """What a run needs."""

    parameters: int
    trained_parameters: int
    memory_mb: dict[str, int]
    """MiB by what takes them; "total" last."""


def size_of(recipe: Recipe) -> ModelSize | None:
    """Of the recipe's model; None where its folder does not say."""
    tiny, path = recipe.model.tiny, recipe.model.path
    if tiny is not None:
        return _size_of_tiny(tiny)
    return None if path is None else _size_of_folder(path)


def estimate(recipe: Recipe) -> Estimate | None:
    """Of the recipe's run; None where the model folder does not say how large it is."""
    size = size_of(recipe)
    if size is None:
        return None
    trained = size.parameters if recipe.lora is None else recipe.lora.rank * size.adapted
    tokens = recipe.grpo.micro_batch_tokens
    parts = {
        "weights": _FLOAT * (size.parameters + (0 if recipe.lora is None else trained)),
        "gradients": _FLOAT * trained,
        "optimizer": 2 * _FLOAT * trained,
        "reference": _FLOAT * trained if recipe.grpo.has_reference else 0,
        "activations": _FLOAT
        * tokens
        * size.layers
        * (_KEPT_PER_LAYER * size.hidden + 3 * size.intermediate),
        "logits": _FLOAT * min(tokens, recipe.grpo.logit_chunk or usual_chunk(size.vocab)) * size.vocab,
        "engine": _engine_bytes(recipe, size),
    }
    memory_mb = {name: ceil(number / (1 << 20)) for name, number in parts.items()}
    return Estimate(
        parameters=size.parameters,
        trained_parameters=trained,
        memory_mb={**memory_mb, "total": sum(memory_mb.values())},
    )


def _engine_bytes(recipe: Recipe, size: ModelSize) -> int:
    """Of the engine in this process: a copy of the weights, and keys and values of every slot."""
    if recipe.engine.kind != "local":
        return 0
    context = recipe.engine.max_context or (recipe.model.tiny.max_context if recipe.model.tiny else 2048)
    return _FLOAT * (size.parameters + recipe.engine.slots * context * size.layers * 2 * size.kv_width)


def _size_of_tiny(tiny: TinyModel) -> ModelSize:
    heads, kv = tiny.heads * tiny.head_dim, tiny.kv_heads * tiny.head_dim
    layer = 2 * tiny.hidden * (heads + kv) + 3 * tiny.hidden * tiny.intermediate + 2 * tiny.hidden
    return ModelSize(
        parameters=2 * tiny.vocab * tiny.hidden + tiny.layers * layer + tiny.hidden,
        layers=tiny.layers,
        hidden=tiny.hidden,
        intermediate=tiny.intermediate,
        kv_width=kv,
        heads_width=heads,
        vocab=tiny.vocab,
    )


def _size_of_folder(folder: Path) -> ModelSize | None:
    whole: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config: dict[str, Any] = whole.get("text_config", whole)
    files = sorted(folder.glob("*.safetensors"))
    wanted = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "vocab_size")
    if not files or any(name not in config for name in wanted):
        return None
    heads = int(config["num_attention_heads"])
    head_dim = int(config.get("head_dim") or config["hidden_size"] // heads)
    return ModelSize(
        parameters=sum(map(_parameters_in, files)),
        layers=int(config["num_hidden_layers"]),
        hidden=int(config["hidden_size"]),
        intermediate=int(config["intermediate_size"]),
        kv_width=int(config.get("num_key_value_heads") or heads) * head_dim,
        heads_width=heads * head_dim,
        vocab=int(config["vocab_size"]),
    )


def _parameters_in(file: Path) -> int:
    """Of a safetensors file, out of its header: eight bytes of length, then JSON."""
    with file.open("rb") as opened:
        (length,) = struct.unpack("<Q", opened.read(8))
        header: dict[str, Any] = json.loads(opened.read(length))
    return sum(prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
