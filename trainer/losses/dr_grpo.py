"""Dr. GRPO (arXiv 2503.20783): PPO's surrogate, divided by a constant and not by lengths, so that a long
wrong answer is not punished less than a short one. Goes with the advantage of the same name.

    loss_n = - min(r_n * A_n, clip(r_n, 1 - 0.2, 1 + 0.2) * A_n)         summed / (episodes * max_tokens)
"""

from dataclasses import dataclass
from typing import ClassVar

from .ppo_clip import PpoClip


@dataclass(frozen=True, kw_only=True, slots=True)
class DrGrpo(PpoClip):
    clip_low: float = 0.2
    clip_high: float = 0.2
    aggregation: ClassVar[str] = "constant"
