"""Group sequence policy optimisation (arXiv 2507.18071): whole episodes are clipped, not single tokens.

    s_i = exp(mean(log pi_n - log old_n, n in episode i))
    loss_n = - min(s_i * A_n, clip(s_i, 1 - 3e-4, 1 + 4e-4) * A_n)       every episode the same weight

The mean is over all segments of the episode. Where advantages differ from turn to turn, the gradient is still
that of this number (the paper's GSPO-token would take another). `level: turn` clips turns.
"""

from dataclasses import dataclass
from typing import ClassVar

from ..objective.terms import Level
from .ppo_clip import PpoClip


@dataclass(frozen=True, kw_only=True, slots=True)
class Gspo(PpoClip):
    clip_low: float = 3e-4
    clip_high: float = 4e-4
    level: Level = "episode"
    aggregation: ClassVar[str] = "episode"
