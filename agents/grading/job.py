"""The words of detached grading: what is asked, what is answered, and how long anybody waits."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from ...envs import Episode, Task
from ...envs.graders.grading import Verdict
from ..trajectory import EpisodeKey


@dataclass(frozen=True, kw_only=True, slots=True)
class GradeLimits:
    """How many grades are under way at a time, and what each may take."""

    max_outstanding: int = 256
    """Jobs at the grader at one time; the others wait in the run file."""
    attempt_s: float = 600.0
    """Of one try."""
    total_s: float = 3600.0
    """Of all tries of a job with the pauses between them, from its first submission in a start of the run."""
    max_attempts: int = 3
    heartbeat_s: float | None = None
    """A try that gives no sign of life for so long has died; None: only `attempt_s` ends it."""
    retry_s: float = 2.0
    """Before the second try, with jitter; it doubles from try to try."""
    poll_s: float = 1.0
    """Before the first look at a job; the pauses grow with its age and the number of jobs, up to a minute."""
    close_after_s: float | None = None
    """A group is closed so long after its last episode was played; None: it waits for every grade."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GradeRequest:
    """One try of a job: the whole of what a grader needs."""

    job: str
    attempt: int
    task: Task
    episodes: tuple[Episode, ...]
    """One, or the siblings of a group."""
    limit_s: float
    """What the try may take."""

    @property
    def key(self) -> str:
        """The idempotency key: submitting it again must not start it again."""
        return f"{self.job}.{self.attempt}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Running:
    """No answer yet."""

    beat: str | None = None
    """A sign of life if it is another one than the last time; None: no news."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdicts:
    """What the grader says of each episode."""

    each: tuple[Verdict, ...]
    job: str | None = None
    """The job that the answer names, if it names one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Broken:
    """The try came to nothing."""

    reason: str
    is_retryable: bool = True


Answer = Running | Verdicts | Broken


class Fate(StrEnum):
    """What became of a result that came in."""

    KEPT = "kept"
    DUPLICATE = "duplicate"
    """The job has its result already."""
    LATE = "late"
    """The job was given up before."""
    BROKEN = "broken"
    """It said that the try failed, or made no sense."""
    GIVEN_UP = "given up"
    """None came: the group went on without it."""
    UNKNOWN = "unknown"
    """There is no such job."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GradeJob:
    """A job as the run file has it."""

    id: str
    members: tuple[EpisodeKey, ...]
    state: str
    """"open", "done", or "given up"."""
    attempt: int = 0
    """Counts the tries that came to nothing."""
    handle: str | None = None
    """By which the adapter knows the try under way; None: not known to be submitted. Of a job that is over:
    the grader has not been told so."""

    @property
    def is_open(self) -> bool:
        return self.state == "open"


class Inbox(Protocol):
    """The stage as an adapter sees it."""

    def wake(self, job: str) -> None:
        """Something happened: poll now."""
        ...

    def beat(self, job: str) -> bool:
        """A sign of life. False: there is no such job under way."""
        ...

    def receive(self, job: str, attempt: int, answer: Verdicts | Broken) -> Fate:
        """An answer that nobody polled for."""
        ...


class GradeAdapter(Protocol):
    """Where grades are made. Its exceptions are weather, unless `is_retryable` on them says otherwise."""

    is_durable: bool
    """Whether a handle is good for another process too."""
    poll_s: float | None
    """How often to look; None: as `GradeLimits.poll_s` says. An adapter that wakes the stage needs few."""

    async def open(self, inbox: Inbox) -> None:
        """Before anything else."""
        ...

    async def close(self) -> None:
        """Give back what is held here. What is durable goes on without us."""
        ...

    async def submit(self, request: GradeRequest) -> str:
        """The handle of a try that is under way. Never waits for the grade; idempotent by `request.key`."""
        ...

    async def poll(self, handle: str) -> Answer:
        """How far it is."""
        ...

    async def release(self, handle: str) -> None:
        """The try is over: stop what still runs, forget the rest."""
        ...


class GraderRefused(Exception):
    """The grader does not take the request: another try gets the same answer."""

    is_retryable = False


class GraderBusy(Exception):
    """The grader cannot be reached, or has no room."""

    is_retryable = True
