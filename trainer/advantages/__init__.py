"""Advantages, one file per algorithm: `grpo.py` holds the class `Grpo`, named "grpo" in a recipe.

A new algorithm is a new file here: a frozen dataclass whose fields are its options, called with every group
of the step. Statistics are over episodes, however many token segments each has. Imports without torch.
"""

import pkgutil
from typing import Any

from ..named import make_named
from ._credit import (
    Accepted,
    Credit,
    GroupPolicy,
    Reason,
    Rejection,
    credit,
    credit_step,
    turn_rewards,
)
from ._graded import MAX_REWARD, STD_FLOOR, Advantage, Graded, Value

__all__ = [
    "MAX_REWARD",
    "STD_FLOOR",
    "Accepted",
    "Advantage",
    "Credit",
    "Graded",
    "GroupPolicy",
    "Reason",
    "Rejection",
    "Value",
    "advantage_names",
    "credit",
    "credit_step",
    "load_advantage",
    "turn_rewards",
]


def advantage_names() -> list[str]:
    """The algorithms in this folder.

    >>> "grpo" in advantage_names()
    True
    """
    names = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name for name in names if not name.startswith("_"))


def load_advantage(name: str, **options: Any) -> Advantage:
    """The algorithm of that name, or the class at "module:Class". A wrong name or option is a `ValueError`.

    >>> load_advantage("dr_grpo")([[Graded(reward=1.0), Graded(reward=0.0)]])
    [[0.5, -0.5]]
    """
    made: Advantage = make_named("advantage", name, __name__, advantage_names(), options)
    return made
