"""The engine: token ids in, token ids and log-probabilities out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, NewType, Protocol

PolicyVersion = NewType("PolicyVersion", int)
"""Counts published policies of a run; 0 is the policy that training starts from."""


def policy_name(version: PolicyVersion) -> str:
    """The name under which a version is published.

    >>> policy_name(PolicyVersion(12))
    'policy-000012'
    """
    return f"policy-{version:06d}"


class Finish(StrEnum):
    """Why an engine stopped."""

    STOP = "stop"
    """It sampled a stop token, which is the last of `Generation.ids`."""
    LENGTH = "length"


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How to sample. Training wants `top_p=1`: anything else biases the log-probability ratio."""

    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    max_tokens: int = 256
    """Tokens of one answer."""
    stop_ids: tuple[int, ...] = ()
    """Sampling ends with the first of these, which is kept."""

    def __post_init__(self) -> None:
        if self.temperature < 0 or not 0 < self.top_p <= 1 or self.max_tokens < 1:
            raise ValueError(f"{self}: needs temperature >= 0, 0 < top_p <= 1, max_tokens >= 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class VersionSpan:
    """Tokens [start, end) of one generation were sampled by `version`."""

    version: PolicyVersion
    start: int
    end: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Generation:
    """One answer, exactly as sampled."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    """[len(ids)] nats, of the distribution that was sampled from (after the temperature)."""
    versions: tuple[VersionSpan, ...]
    """Cover `ids` without gaps."""
    finish: Finish


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightUpdate:
    """New weights on the way to an engine. Exactly one of `adapter`, `model` and `state` is set."""

    version: PolicyVersion
    adapter: Path | None = None
    """A peft adapter folder, for engines in another process."""
    model: Path | None = None
    """A whole model's folder, for an engine in another process that holds one version at a time."""
    state: Mapping[str, Any] | None = field(default=None, repr=False)
    """Parameters by name, for an engine in this process, which copies them."""


class Engine(Protocol):
    """Token in, token out. One engine serves many episodes at once."""

    max_context: int
    """Tokens of prompt and answer together."""

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, *, policy: PolicyVersion, seed: int
    ) -> Generation:
        """Continue `prompt_ids`. The same arguments give the same tokens. Raises `EngineError`."""
        ...

    async def publish(self, update: WeightUpdate) -> PolicyVersion:
        """Make a new version available; requests for older ones go on undisturbed."""
        ...

    async def retire(self, version: PolicyVersion) -> None:
        """Free a version that no episode uses any more."""
        ...

    async def close(self) -> None:
        """Stop what the engine started."""
        ...
