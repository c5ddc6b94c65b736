"""How an episode is judged. An outcome is not a float: what has no number gets none."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field


def finite(value: Any, name: str) -> float:
    """A number of any kind as a float. Raises `TypeError` for None, text, NaN and what is too large.

    >>> finite(Fraction(1, 2), "the reward")
    0.5
    """
    try:
        number = math.nan if isinstance(value, str | bytes) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise TypeError(f"{name} is {value!r:.200}; it must be a finite number")
    return number


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """What a grader says of one episode."""

    reward: float
    components: Mapping[str, float] = field(default_factory=dict[str, float])
    """Named parts of the reward, kept up to the report."""
    evidence: str = ""
    """Why, in words a person can check."""
    turns: tuple[float, ...] = ()
    """A reward for each of the policy's answers, kept up to the report; empty where nobody can say."""

    def __post_init__(self) -> None:
        """Numbers of every kind become floats; `TypeError` for all else: without a number, raise instead."""
        object.__setattr__(self, "reward", finite(self.reward, "Score.reward"))
        parts = {name: finite(part, f"Score.components[{name!r}]") for name, part in self.components.items()}
        object.__setattr__(self, "components", parts)
        turns = tuple(finite(each, f"Score.turns[{at}]") for at, each in enumerate(self.turns))
        object.__setattr__(self, "turns", turns)
        texts: tuple[Any, ...] = (self.evidence, *parts)
        for text in texts:
            if not isinstance(text, str):
                raise TypeError(
                    f"Score.evidence or a name in Score.components is {text!r:.200}; it must be str"
                )


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """The policy earned this number."""

    reward: float
    components: Mapping[str, float] = field(default_factory=dict[str, float])
    evidence: str = ""
    turns: tuple[float, ...] = ()
    """One for each of the policy's answers, or none at all."""
    kind: Literal["scored"] = "scored"


@dataclass(frozen=True, kw_only=True, slots=True)
class Ungraded:
    """The episode was played; the grader timed out, crashed or made no sense. No number exists."""

    reason: str
    is_late: bool = False
    """Its group had been closed before the grade was there."""
    kind: Literal["ungraded"] = "ungraded"


@dataclass(frozen=True, kw_only=True, slots=True)
class Failed:
    """Infrastructure broke under the episode. What a policy can cause is never this."""

    stage: str
    """Where: "reset", "policy", "step", "partner" (another policy, asked by the environment), "workspace", or
    "record" for an episode that has no form on disk."""
    cause: str
    """The exception's type, or the limit that was in the way, such as "wall"."""
    retryable: bool
    message: str = ""
    kind: Literal["failed"] = "failed"


Outcome = Annotated[Scored | Ungraded | Failed, Field(discriminator="kind")]
