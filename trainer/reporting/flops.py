"""How much a training pass has to compute, and how much a device can.

A weight of a linear layer meets each token in 2 operations forward, 2 for the gradient of the layer's input,
and 2 for its own if it is trained; attention takes 4 for each pair of a query and a key that it sees and each
of its L * H features forward, and twice that backward:

    6 * N * T + 12 * L * H * pairs                 every weight is trained
    4 * N * T + 12 * L * H * pairs + 6 * A * T     N are frozen, beside an adapter of A weights
    2 * N * T + 4 * L * H * pairs + 2 * A * T      nothing is trained: forward alone

N: weights of the linear layers; H: heads times their width; T: tokens. The head counts on trained tokens
alone, and what is computed again for activation checkpointing does not count. MFU is this over the seconds
and the peak. Kaplan et al., arXiv 2001.08361, table 1; Chowdhery et al. (PaLM), arXiv 2204.02311, appendix B,
who count every pair where a causal model sees half of them.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from .._torch import device_name, modules, output_head
from ..batches.packing import MicroBatch

PEAKS = {
    "A100": 312e12,
    "B200": 2250e12,
    "GH200": 989e12,
    "H100 NVL": 835e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H200": 989e12,
    "L4": 121e12,
    "L40S": 362e12,
}
"""Dense bf16 operations a second, by NVIDIA's data sheets; the first name that is in the device's counts."""

_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
"""How configurations say that a token meets a part of the weights only."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """The figures of a model that count."""

    body: int
    """Weights of its linear layers, without the head."""
    head: int
    attention: int
    """Layers * heads * their width."""
    adapter: int | None = None
    """Weights of an adapter; None: every weight is trained."""

    def with_adapter(self, model: PreTrainedModel) -> "Shape":
        """What is trained now is an adapter, and nothing else."""
        return replace(self, adapter=sum(p.numel() for p in model.parameters() if p.requires_grad))

    def flops(self, *, num_tokens: int, num_pairs: int, num_trained: int, has_gradient: bool = True) -> float:
        """Of a pass forward, and backward unless `has_gradient` is False, over a line: its tokens, the pairs
        that its attention sees, and its trained tokens.

        >>> Shape(body=100, head=10, attention=1).flops(num_tokens=2, num_pairs=3, num_trained=1)
        1296.0
        """
        passes = 3 if has_gradient else 1
        each = 4 if has_gradient and self.adapter is not None else 2 * passes
        linear = each * (self.body * num_tokens + self.head * num_trained)
        adapter = 2 * passes * (self.adapter or 0) * num_tokens
        return float(linear + adapter + 4 * passes * self.attention * num_pairs)

    def flops_of(self, micros: Sequence[MicroBatch], *, has_gradient: bool = True) -> float:
        """Of a pass over each line; what rows share in a line is computed once, and counts once."""
        return sum(
            self.flops(
                num_tokens=len(micro.inputs_T),
                num_pairs=micro.layout.num_pairs,
                num_trained=len(micro.trained.where),
                has_gradient=has_gradient,
            )
            for micro in micros
        )


def shape_of(model: PreTrainedModel) -> Shape | None:
    """Of a model that has no adapter yet. None where this arithmetic does not fit: experts, windows of
    attention."""
    untyped: Any = model
    config: Any = untyped.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if any(getattr(config, name, None) for name in _EXPERTS) or kinds != {"full_attention"}:
        return None
    head = output_head(model)
    linear = [each for _, each in modules(model) if isinstance(each, nn.Linear | Conv1D) and each is not head]
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return Shape(
        body=sum(each.weight.numel() for each in linear),
        head=sum(weight.numel() for weight in head.parameters() if weight.ndim == 2),
        attention=config.num_hidden_layers * heads * width,
    )


def known_peak(device: str) -> float | None:
    """Dense bf16 operations a second of a GPU by its name; None where nobody has told us.

    >>> known_peak("NVIDIA H100 80GB HBM3")
    989000000000000.0
    """
    return next((peak for name, peak in PEAKS.items() if re.search(rf"\b{name}\b", device)), None)


def peak_of(device: torch.device, dtype: str, *, given: float | None = None) -> float | None:
    """Operations a second of one device: those that are `given`, in 10^12, or what is known of a GPU that
    computes in bf16."""
    if given is not None:
        return 1e12 * given
    return known_peak(device_name(device)) if device.type == "cuda" and dtype == "bfloat16" else None
