"""Settings of the learner. Imports without torch."""

from dataclasses import dataclass, field
from typing import Literal

from .schedule import OptimizerConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraConfig:
    """A low-rank adapter beside the frozen weights (Hu et al., arXiv 2106.09685)."""

    rank: int = 16
    alpha: float = 32.0
    """The adapter's output is scaled by alpha / rank."""
    targets: tuple[str, ...] | Literal["all-linear"] = "all-linear"
    """Names of linear modules such as "q_proj"; "all-linear": every one but the head."""
    lr_ratio: float = 1.0
    """The rate of B over that of A. LoRA+ (Hayou et al., arXiv 2402.12354): over 1, such as 16, for B starts
    at zero and has further to go; then lower `lr` for A, to about a quarter."""
    base_dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the frozen weights, for who loads them by `load_to_train`: "bfloat16" halves their memory and rounds
    them. The adapter stays in float32."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LearnerConfig:
    """How a model is trained."""

    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    lora: LoraConfig | None = None
    """None trains every parameter."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the computation: "bfloat16" is autocast; weights and optimizer state stay as they were loaded."""
    temperature: float = 1.0
    """Of the sampling: logprobs are those of logits / temperature, on both sides of the ratio."""
    micro_batch_tokens: int = 2048
    """Tokens of one forward and backward pass."""
    logit_chunk: int | None = None
    """Positions that go through the head at once; each costs a whole vocabulary of logits. None: as many as
    take 256 MiB."""
    share_prefixes_from: int | None = None
    """Compute what rows begin with in common once, from so many tokens on; None: each row by itself."""
    activation_checkpointing: bool = False
    """Keep little of each layer for the backward pass and compute the layer again: less memory, more time."""
    seed: int = 0
    """Of the adapter's random half."""

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(
                f"LearnerConfig.temperature is {self.temperature}; greedy samples cannot be trained on"
            )
        for name in ("micro_batch_tokens", "logit_chunk", "share_prefixes_from"):
            value: int | None = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"LearnerConfig.{name} is {value}; it must be at least 1")


def usual_chunk(vocabulary: int) -> int:
    """Positions whose logits take 256 MiB in fp32.

    >>> usual_chunk(151_936)
    441
    """
    return max(1, (1 << 26) // vocabulary)
