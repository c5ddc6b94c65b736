"""What environments and policies may raise, and the one boundary where the rest becomes data.

ToolError        a tool says that it failed: the policy reads the message and goes on
ToolBroken       what a row's tool stands on is gone: the episode fails
CodeExited       foreign code called `sys.exit`
CodePanicked     foreign code raised what is no `Exception`
BadTask          a grader cannot grade this task at all: no reference, or none that can be read
Tampered         a grader has evidence that it was attacked: the episode is scored the floor
OutOfBudget      a policy cannot answer within what is left: the episode stops, and is graded
EpisodeFailed    from `boundary` to `play`: infrastructure broke, and there is no grade
"""

import asyncio
import threading
import traceback
from collections.abc import Generator
from contextlib import contextmanager
from typing import TypeVar, cast

from ..sandboxes import SandboxUnavailable
from .episode import StopReason
from .message import utf8
from .outcome import Failed

T = TypeVar("T")


class ToolError(Exception):
    """Raised inside a `@tool`; its text is shown to the policy as the tool's answer."""


class ToolBroken(Exception):
    """Raised by a row's tool when what it stands on is gone, such as its database. What else such a function
    raises may be the doing of the policy, which reads it. Worth another try, unless told otherwise."""

    def __init__(self, problem: str, *, is_retryable: bool = True) -> None:
        super().__init__(problem)
        self.is_retryable = is_retryable


class OutOfBudget(Exception):
    """Raised by a policy that cannot answer within what is left, such as the model's context."""

    def __init__(self, reason: StopReason) -> None:
        super().__init__(reason.value)
        self.reason = reason


class BadTask(ValueError):
    """Raised by a grader for a task that it cannot grade as it is, such as one without a reference."""

    is_retryable = False


class Tampered(Exception):
    """Raised by a grader that was attacked, with the evidence: the score is the floor of the env's
    `reward_range`, or 0.0 where that has none."""


class CodeExited(Exception):
    """Foreign code called `sys.exit`, as argparse does when it does not like its arguments."""

    is_retryable = False


class CodePanicked(Exception):
    """Foreign code raised what is no `Exception`, as extensions in Rust do when they panic."""

    is_retryable = False


class EpisodeFailed(Exception):
    """Carries a `Failed` to the place that records it."""

    def __init__(self, failed: Failed) -> None:
        super().__init__(f"{failed.stage}: {failed.cause}: {failed.message}")
        self.failed = failed


PERMANENT = (
    TypeError,
    AttributeError,
    NameError,
    LookupError,
    NotImplementedError,
    AssertionError,
    ImportError,
    SandboxUnavailable,
)
"""Errors that a second try meets again: bugs in an environment, not weather. An error of another kind says
so by an attribute `is_retryable`."""


@contextmanager
def no_exit() -> Generator[None, None, None]:
    """`SystemExit` becomes `CodeExited`, and what else is no `Exception` `CodePanicked`. Around foreign code,
    inside every task and thread that it runs in: asyncio lets a SystemExit that leaves a task end the whole
    loop, and few who wait for a task expect more than an `Exception`.

    Cancellation and the end of a coroutine pass, and Ctrl-C, which comes to the main thread alone: there a
    `KeyboardInterrupt` that foreign code raises itself ends the run, too."""
    try:
        yield
    except SystemExit as error:
        raise CodeExited(f"sys.exit({error.code!r}) was called; code in a run must raise instead") from error
    except (Exception, asyncio.CancelledError, GeneratorExit):
        raise
    except BaseException as error:  # every kind: foreign code
        if _is_ours(error) and threading.current_thread() is threading.main_thread():
            raise
        told = f"{type(error).__name__}: {text_of(error)}; code in a run must raise an Exception"
        raise CodePanicked(told) from error


def _is_ours(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        group = cast(BaseExceptionGroup[BaseException], error)
        return group.subgroup((KeyboardInterrupt, asyncio.CancelledError, GeneratorExit)) is not None
    return isinstance(error, KeyboardInterrupt)


def where(error: BaseException) -> str:
    """Where foreign code broke, which is what its author looks for: "in my_envs.py, line 3"."""
    origin = error.__cause__ or error
    if isinstance(origin, SyntaxError):
        return f"in {origin.filename}, line {origin.lineno}"
    at = traceback.extract_tb(origin.__traceback__)[-1]
    return f"in {at.filename}, line {at.lineno}"


@contextmanager
def boundary(stage: str) -> Generator[None, None, None]:
    """Foreign exceptions and exits become `EpisodeFailed`. Our own cancellation and Ctrl-C pass through."""
    try:
        with no_exit():
            yield
    except EpisodeFailed:
        raise
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        # Nobody cancelled us: it leaked from a task inside, and would end ours without a word.
        raise EpisodeFailed(_failed(stage, error)) from error
    except Exception as error:  # every kind: environments and engines are other people's code
        raise EpisodeFailed(_failed(stage, error)) from error


def returned(value: object, kind: type[T], *, by: str) -> T:
    """`value`, if foreign code returned what it should."""
    if not isinstance(value, kind):
        raise TypeError(f"{by} returned {value!r:.200}; it must return {kind.__name__}")
    return value


def text_of(error: BaseException) -> str:
    """What a foreign error says, as the run file can keep it; its `__str__` may itself be broken."""
    try:
        with no_exit():
            return utf8(str(error)[:2000])
    except Exception as broken:  # every kind: foreign classes print themselves
        return f"(no text: its __str__ raised {type(broken).__name__})"


def notes(error: BaseException) -> str:
    """What code that a limit stopped has noted on its cancellation with `add_note`: "; asking the judge"."""
    return "".join(f"; {note}" for note in getattr(error.__context__, "__notes__", ()))


def is_retryable(error: BaseException) -> bool:
    """Whether a second try may do better."""
    return bool(getattr(error, "is_retryable", not isinstance(error, PERMANENT)))


def _failed(stage: str, error: BaseException) -> Failed:
    return Failed(
        stage=stage,
        cause=type(error).__name__,
        retryable=is_retryable(error),
        message=text_of(error),
    )
