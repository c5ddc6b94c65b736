"""What environments and policies may raise, and the one boundary where the rest becomes data.

ToolError        a tool says that it failed: the policy reads the message and goes on
OutOfBudget      a policy cannot answer within what is left: the episode stops, and is graded
EpisodeFailed    from `boundary` to `play`: infrastructure broke, and there is no grade
"""

from collections.abc import Generator
from contextlib import contextmanager

from .episode import StopReason
from .outcome import Failed


class ToolError(Exception):
    """Raised inside a `@tool`; its text is shown to the policy as the tool's answer."""


class OutOfBudget(Exception):
    """Raised by a policy that cannot answer within what is left, such as the model's context."""

    def __init__(self, reason: StopReason) -> None:
        super().__init__(reason.value)
        self.reason = reason


class EpisodeFailed(Exception):
    """Carries a `Failed` to the place that records it."""

    def __init__(self, failed: Failed) -> None:
        super().__init__(f"{failed.stage}: {failed.cause}: {failed.message}")
        self.failed = failed


PERMANENT = (TypeError, AttributeError, NameError, LookupError, NotImplementedError, AssertionError)
"""Errors that a second try meets again: bugs in an environment, not weather."""


@contextmanager
def boundary(stage: str) -> Generator[None, None, None]:
    """Foreign exceptions become `EpisodeFailed`. Budgets, cancellation and exits pass through."""
    try:
        yield
    except (OutOfBudget, EpisodeFailed):
        raise
    except Exception as error:  # every kind: environments and engines are other people's code
        failed = Failed(
            stage=stage,
            cause=type(error).__name__,
            retryable=not isinstance(error, PERMANENT),
            message=str(error)[:2000],
        )
        raise EpisodeFailed(failed) from error
