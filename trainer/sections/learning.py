"""How weights move: the optimizer, adapters, the supervised start. Part of the recipe's schema."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from .base import Section

Beta = Annotated[float, Field(ge=0, lt=1)]


class OptimizerSection(Section):
    """AdamW."""

    lr: PositiveFloat | None = None
    """None: by the model's width, 1e-6 from 2560 on, 8e-6 at 900, 4e-4 at 128; ten times that with LoRA."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    min_lr_ratio: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Where a falling schedule ends, as a part of `lr`."""
    weight_decay: NonNegativeFloat = 0.0
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    eps: PositiveFloat = 1e-8
    max_grad_norm: PositiveFloat = 1.0


class LoraSection(Section):
    rank: PositiveInt = 16
    alpha: PositiveFloat = 32.0
    targets: Annotated[list[str], Field(min_length=1)] | Literal["all-linear"] = "all-linear"
    """Names of linear layers such as "q_proj"; "all-linear": every one but the head."""
    lr_ratio: PositiveFloat = 1.0
    """The rate of an adapter's B over that of its A; 16 is LoRA+ (arXiv 2402.12354)."""
    base_dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the frozen weights; bfloat16 halves their memory. Then set `model.dtype` to bfloat16 as well."""


class WarmStartSection(Section):
    """A short supervised training on the oracle's demonstrations, before the reinforcement learning."""

    demonstrations: PositiveInt = 1024
    """Training tasks that the oracle plays; at most as many as there are."""
    steps: PositiveInt = 100
    target_loss: PositiveFloat | None = None
    """Stop early when the loss, smoothed over about five steps, is down to this; nats a token."""
    batch_size: PositiveInt = 32
    """Demonstrations per step."""
    optimizer: OptimizerSection = OptimizerSection(lr=1e-3)
    lora: LoraSection | None = None
    """Train an adapter, which is merged in afterwards; None trains every parameter."""
