"""Grades off the rollout slots. Part of the recipe's schema."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from .base import AnyPath, Section


class GradingSection(Section):
    """Detached grading: the environment's grader, or another one, off the rollout slots."""

    kind: Literal["inline", "subprocess", "sandbox", "http", "lambda"] = "inline"
    """Where grades are made: in this process, in a process each, in a sandbox each, behind HTTP, by events on
    AWS Lambda. The first two use the environment's grader, unless there is a `command`."""
    command: list[str] = Field(default_factory=list)
    """The grader as a program (subprocess, sandbox)."""
    files: list[AnyPath] = Field(default_factory=list[Path])
    """Files that lie beside the program (sandbox)."""
    sandbox: dict[str, Any] = Field(default_factory=dict)
    """Fields of its `SandboxSpec`, such as {backend: docker, image: "judge:1"}."""
    url: str | None = None
    """Where jobs are posted (http)."""
    function: str | None = None
    """The ARN or the name of a function that takes events (lambda)."""
    answers: str | None = None
    """Where the function puts answers: s3://bucket/prefix, or a URL (lambda)."""
    endpoint_url: str | None = None
    """Another server that speaks Lambda's API (lambda)."""
    token_env: str | None = None
    """Environment variable with the bearer token for `url` or `answers`."""
    callback: bool = False
    """Listen on the loopback for answers (http, lambda)."""
    callback_port: Annotated[int, Field(ge=0, le=65535)] = 0
    """0: a free one, the same after a restart."""
    callback_url: str | None = None
    """How the grader reaches us from elsewhere, such as through a proxy."""
    max_outstanding: PositiveInt = 256
    """Jobs at the grader at one time."""
    attempt_s: PositiveFloat = 600.0
    """Seconds of one try."""
    total_s: PositiveFloat = 3600.0
    """Seconds of all tries of an episode, with the pauses between them."""
    max_attempts: PositiveInt = 3
    heartbeat_s: PositiveFloat | None = None
    """A try that gives no sign of life for so long has died."""
    retry_s: NonNegativeFloat = 2.0
    """Seconds before the second try, with jitter; the pause doubles from try to try."""
    poll_s: PositiveFloat = 1.0
    """Seconds before the first look at a job; they grow with its age."""
    close: Literal["wait", "partial", "drop"] = "wait"
    """What a group does `close_after_s` after its last episode was played: wait for every grade, go on with
    those that are there, or be left out of training as a whole when one is missing."""
    close_after_s: PositiveFloat = 600.0
