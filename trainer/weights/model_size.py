"""How large a model is, before it is loaded or made. Imports without torch."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from ..recipe import Recipe, TinyModel
from .lineage import base_of, find_origin
from .stored import shapes_in

_OF_TINY = frozenset(
    [f"model.layers.0.self_attn.{name}_proj" for name in "qkvo"]
    + [f"model.layers.0.mlp.{name}_proj" for name in ("gate", "up", "down")]
    + ["model.embed_tokens", "lm_head"]
)
"""Of a Llama with one layer."""


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
    context: int
    """Positions that it was made for."""

    def adapted(self, targets: Iterable[str] | None = None) -> int:
        """Inputs plus outputs of the linear layers that have an adapter, None: all but the head. One of rank
        r has r times as many parameters."""
        hidden = self.hidden
        layer = {
            "q_proj": hidden + self.heads_width,
            "k_proj": hidden + self.kv_width,
            "v_proj": hidden + self.kv_width,
            "o_proj": hidden + self.heads_width,
            "gate_proj": hidden + self.intermediate,
            "up_proj": hidden + self.intermediate,
            "down_proj": hidden + self.intermediate,
        }
        names = set(layer) if targets is None else {target.rpartition(".")[2] for target in targets}
        head = hidden + self.vocab if "lm_head" in names else 0
        return head + self.layers * sum(width for name, width in layer.items() if name in names)


def model_folder(recipe: Recipe) -> Path | None:
    """The folder that says how large the recipe's model is; None for a tiny one, and where there is none.

    Of weights that another run left it is the model that they were trained on.
    """
    if recipe.model.start is None:
        return recipe.model.path
    return base_of(find_origin(recipe.model.start))


def size_of(recipe: Recipe) -> ModelSize | None:
    """Of the recipe's model; None where its folder does not say."""
    if recipe.model.tiny is not None:
        return _size_of_tiny(recipe.model.tiny)
    folder = model_folder(recipe)
    return None if folder is None else _size_of_folder(folder)


def has_tied_head(folder: Path) -> bool:
    """Whether the configuration of a model says that its head is its embeddings."""
    whole: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return whole.get("tie_word_embeddings") is True


def layer_names(recipe: Recipe) -> frozenset[str] | None:
    """Paths of the layers with a matrix, embeddings included; None where nothing says."""
    if recipe.model.tiny is not None:
        return _OF_TINY
    folder = model_folder(recipe)
    files = [] if folder is None else sorted(folder.glob("*.safetensors"))
    matrices = (name for file in files for name, shape in shapes_in(file).items() if len(shape) == 2)
    return frozenset(name.removesuffix(".weight") for name in matrices) or None


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
        context=tiny.max_context,
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
        context=int(config.get("max_position_embeddings") or 2048),
    )


def _parameters_in(file: Path) -> int:
    return sum(map(prod, shapes_in(file).values()))
