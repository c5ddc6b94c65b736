"""Advantages, one file per algorithm: `grpo.py` holds the class `Grpo`, named "grpo" in a recipe.

A new algorithm is a new file here: a frozen dataclass whose fields are its options, called with every group
of the step. Statistics are over episodes, however many token segments each has. Imports without torch.
"""

import dataclasses
import importlib
import pkgutil
from typing import Any, cast

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
    module_name, colon, class_name = name.partition(":")
    if not colon:
        if name not in advantage_names():
            known = ", ".join(advantage_names())
            raise ValueError(f'unknown advantage {name!r}; known: {known}; or "module:Class"')
        module_name, class_name = f"{__name__}.{name}", name.title().replace("_", "")
    found: Any = getattr(importlib.import_module(module_name), class_name)
    fields = [field.name for field in dataclasses.fields(found)]
    for option in options:
        if option not in fields:
            has = ", ".join(fields) or "none"
            raise ValueError(f"advantage {name!r} has no option {option!r}; it has: {has}")
    return cast("Advantage", found(**options))
