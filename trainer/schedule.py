"""AdamW's settings and the learning rate as a function of the step."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerConfig:
    """AdamW."""

    lr: float = 1e-5
    """After the warm-up."""
    warmup_steps: int = 0
    """Linear, from lr / warmup_steps."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    total_steps: int = 0
    """Where a falling schedule ends; not read by "constant"."""
    min_lr_ratio: float = 0.1
    """Where a falling schedule ends, as a part of `lr`."""
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    """Of the matrices; vectors such as norms and biases are not decayed."""
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        if self.schedule != "constant" and self.total_steps <= self.warmup_steps:
            raise ValueError(
                f"schedule {self.schedule!r} needs total_steps over warmup_steps={self.warmup_steps}, "
                f"not {self.total_steps}"
            )


def learning_rate(config: OptimizerConfig, step: int) -> float:
    """The rate of optimizer step 0, 1, ...

    >>> learning_rate(OptimizerConfig(lr=1.0, warmup_steps=4), 0)
    0.25
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.lr
    progress = min(1.0, (step - config.warmup_steps) / (config.total_steps - config.warmup_steps))
    left = 1 - progress if config.schedule == "linear" else (1 + math.cos(math.pi * progress)) / 2
    return config.lr * (config.min_lr_ratio + (1 - config.min_lr_ratio) * left)


def usual_rate(width: int, *, is_adapter: bool = False) -> float:
    """The rate of who names none: a small model takes, and needs, a larger one; an adapter ten times as much.

    >>> [usual_rate(width) for width in (128, 1280, 4096)]
    [0.0004, 4e-06, 1e-06]
    """
    rate = 1e-6 * max(1.0, (2560 / width) ** 2) * (10 if is_adapter else 1)
    return min(rate, 1e-3)


def model_width(model: Path) -> int:
    """The width of a model folder's layers; 2560 where its configuration does not say."""
    config: dict[str, Any] = json.loads((model / "config.json").read_text(encoding="utf-8"))
    text = config.get("text_config", config)
    return int(text.get("hidden_size", 2560))
