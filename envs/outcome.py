"""How an episode is judged. An outcome is not a float: what has no number gets none."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """What a grader says of one episode."""

    reward: float
    components: Mapping[str, float] = field(default_factory=dict[str, float])
    """Named parts of the reward, kept up to the report."""
    evidence: str = ""
    """Why, in words a person can check."""

    def __post_init__(self) -> None:
        if not math.isfinite(self.reward):
            raise ValueError(f"Score.reward is {self.reward}; a grader that has no number must raise instead")


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """The policy earned this number."""

    reward: float
    components: Mapping[str, float] = field(default_factory=dict[str, float])
    evidence: str = ""
    kind: Literal["scored"] = "scored"


@dataclass(frozen=True, kw_only=True, slots=True)
class Ungraded:
    """The episode was played; the grader timed out, crashed or made no sense. No number exists."""

    reason: str
    kind: Literal["ungraded"] = "ungraded"


@dataclass(frozen=True, kw_only=True, slots=True)
class Failed:
    """Infrastructure broke under the episode. What a policy can cause is never this."""

    stage: str
    """Where: "reset", "policy", "step", "workspace"."""
    cause: str
    """The exception's type, or a word such as "wall"."""
    retryable: bool
    message: str = ""
    kind: Literal["failed"] = "failed"


Outcome = Annotated[Scored | Ungraded | Failed, Field(discriminator="kind")]
