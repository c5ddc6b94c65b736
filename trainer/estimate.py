"""How much memory a run takes, before anything is loaded. Imports without torch.

Parameters are exact for a tiny model and for a folder of safetensors. Memory is an estimate of the first
rank's own process: weights, gradients, AdamW's two moments, a reference, the local engine with its cache, and
what one micro-batch keeps for its backward pass. Several ranks share all but the last two.
"""

from dataclasses import dataclass
from math import ceil

from .config import usual_chunk
from .ranks.launch import world_size
from .recipe import LoraSection, Recipe
from .weights.model_size import ModelSize, size_of

_FLOAT, _HALF = 4, 2
"""Bytes: what is trained is held in float32."""
_KEPT_PER_LAYER = 16
"""Times [tokens, hidden] floats that a layer keeps for the backward pass (Korthikanti et al., arXiv
2205.05198, with a fused attention)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """What a run needs."""

    parameters: int
    trained_parameters: int
    memory_mb: dict[str, int]
    """MiB by what takes them in the stage that takes most; "total" last."""
    largest_stage: str
    """"grpo", or "warm_start" where that trains more parameters."""
    ranks: int
    """Processes that share the learner; the memory is of the first."""


def estimate(recipe: Recipe) -> Estimate | None:
    """Of the recipe's run; None where the model folder does not say how large it is."""
    size = size_of(recipe)
    if size is None:
        return None
    stages = {
        "grpo": _stage(recipe, size, recipe.lora, has_reference=recipe.grpo.has_reference, has_engine=True)
    }
    if recipe.warm_start is not None:
        lora = recipe.warm_start.lora
        stages["warm_start"] = _stage(recipe, size, lora, has_reference=False, has_engine=False)
    largest = max(stages, key=lambda name: stages[name]["total"])
    return Estimate(
        parameters=size.parameters,
        trained_parameters=_trained(size, recipe.lora),
        memory_mb=stages[largest],
        largest_stage=largest,
        ranks=world_size(),
    )


def _trained(size: ModelSize, lora: LoraSection | None) -> int:
    if lora is None:
        return size.parameters
    return lora.rank * size.adapted(None if lora.targets == "all-linear" else lora.targets)


def _stage(
    recipe: Recipe, size: ModelSize, lora: LoraSection | None, *, has_reference: bool, has_engine: bool
) -> dict[str, int]:
    """MiB by what takes them, and "total"."""
    trained, is_half = _trained(size, lora), recipe.model.dtype == "bfloat16"
    frozen = 0 if lora is None else size.parameters
    base = _HALF if lora is not None and lora.base_dtype == "bfloat16" else _FLOAT
    shared = {
        "weights": base * frozen + _FLOAT * trained,
        "gradients": _FLOAT * trained,
        "optimizer": 2 * _FLOAT * trained,
        "reference": _FLOAT * trained if has_reference else 0,
    }
    own = {
        "autocast": _HALF * trained if is_half else 0,  # torch keeps the copies until the pass is over
        "activations": (_HALF if is_half else _FLOAT) * _kept(recipe, size),
        "logits": _FLOAT * _chunk(recipe, size) * size.vocab,
        "engine": _engine_bytes(recipe, size) if has_engine else 0,
    }
    parts = {name: number // world_size() for name, number in shared.items()} | own
    memory_mb = {name: ceil(number / (1 << 20)) for name, number in parts.items()}
    return {**memory_mb, "total": sum(memory_mb.values())}


def _kept(recipe: Recipe, size: ModelSize) -> int:
    """Numbers that a micro-batch keeps for its backward pass."""
    layer = _KEPT_PER_LAYER * size.hidden + 3 * size.intermediate
    if recipe.grpo.activation_checkpointing:  # what enters each layer, and the inside of one
        return recipe.grpo.micro_batch_tokens * (size.layers * size.hidden + layer)
    return recipe.grpo.micro_batch_tokens * size.layers * layer


def _chunk(recipe: Recipe, size: ModelSize) -> int:
    return min(recipe.grpo.micro_batch_tokens, recipe.grpo.logit_chunk or usual_chunk(size.vocab))


def _engine_bytes(recipe: Recipe, size: ModelSize) -> int:
    """Of the engine in this process: two versions of the weights, and keys and values of every slot."""
    if recipe.engine.kind != "local":
        return 0
    context = recipe.engine.max_context or size.context
    cache = (recipe.engine.slots + 1) * context * size.layers * 2 * size.kv_width
    return _FLOAT * (2 * size.parameters + cache)  # a version, and the next one before it is retired
