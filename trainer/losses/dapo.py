"""DAPO (arXiv 2503.14476): PPO's surrogate with a higher upper clip, every token of the step the same weight.

    loss_n = - min(r_n * A_n, clip(r_n, 1 - 0.2, 1 + 0.28) * A_n)        averaged over tokens

The paper's dynamic sampling is `GroupPolicy.zero_variance`.
"""

from dataclasses import dataclass
from typing import ClassVar

from .ppo_clip import PpoClip


@dataclass(frozen=True, kw_only=True, slots=True)
class Dapo(PpoClip):
    clip_low: float = 0.2
    clip_high: float = 0.28
    aggregation: ClassVar[str] = "token"
