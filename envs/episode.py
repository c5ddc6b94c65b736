"""The record of one play-through."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar

from pydantic import ConfigDict

from .message import AssistantMessage, Message, ToolSpec
from .outcome import Failed


class StopReason(StrEnum):
    """Why an episode ended."""

    DONE = "done"
    """The environment said so."""
    TRUNCATED = "truncated"
    """The environment cut it."""
    MAX_TURNS = "max_turns"
    MAX_TOKENS = "max_tokens"
    CONTEXT = "context"
    ENV_SECONDS = "env_seconds"
    WALL = "wall"
    FAILED = "failed"
    """Infrastructure broke; `Episode.failure` says where."""

    @property
    def is_truncated(self) -> bool:
        """Cut before the environment said it was over."""
        return self not in (StopReason.DONE, StopReason.FAILED)


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """Where an episode's seconds went."""

    env_s: float = 0.0
    policy_s: float = 0.0
    wall_s: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Workspace:
    """Files that the episode left behind, for graders that run later."""

    # Contents need not be UTF-8: in JSON they are base64.
    __pydantic_config__: ClassVar = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")

    files: tuple[tuple[str, bytes], ...]
    """(relative path, content) pairs, sorted by path."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Episode:
    """What happened, in messages. How good it was is the `Outcome`, which stands beside it."""

    task_id: str
    seed: int
    messages: tuple[Message, ...]
    """The whole conversation, the opening included."""
    num_opening: int = 0
    """How many of `messages` stood there before the policy spoke: an answer among them is an example."""
    tools: tuple[ToolSpec, ...] = ()
    rewards: tuple[float, ...] = ()
    """One step reward a turn; 0.0 for a step that a limit cut short."""
    stop: StopReason
    failure: Failed | None = None
    """Set exactly when `stop` is FAILED."""
    workspace: Workspace | None = None
    timing: Timing = field(default_factory=Timing)
    env_info: tuple[tuple[str, str], ...] = ()
    """Facts the environment wants on record, such as the sandbox tier."""

    @property
    def answers(self) -> tuple[AssistantMessage, ...]:
        """What the policy said, in order."""
        heard = self.messages[self.num_opening :]
        return tuple(message for message in heard if isinstance(message, AssistantMessage))

    @property
    def num_turns(self) -> int:
        return len(self.answers)

    @property
    def is_truncated(self) -> bool:
        """Cut before it was over: by a limit, or in the middle of its last answer."""
        last = self.answers[-1].usage if self.answers else None
        return self.stop.is_truncated or (last is not None and last.finish == "length")
