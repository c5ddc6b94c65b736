"""What a run tells whoever watches. The trainer does not know the terminal; `palaestra.cli` draws."""

from collections.abc import Mapping
from typing import Protocol

from ...agents.trajectory import Trajectory


class Progress(Protocol):
    """Called from the event loop; must not block."""

    def phase(self, name: str, total: int) -> None:
        """A new stretch of work with `total` parts, such as "baseline" with 500 episodes."""
        ...

    def advance(self, done: int = 1) -> None:
        """Parts of the current phase that are done."""
        ...

    def episode(self, trajectory: Trajectory) -> None:
        """An episode has ended."""
        ...

    def step(self, metrics: Mapping[str, float]) -> None:
        """One training step is finished."""
        ...

    def waiting(self, what: str) -> None:
        """What the run waits for right now: "episodes", "learner", "publish", "checkpoint", "vLLM, 9 s"."""
        ...

    def note(self, text: str) -> None:
        """Something a person should read."""
        ...


def waiting_for_episodes(pausing: int) -> str:
    """What to tell while `pausing` samples wait for another try.

    >>> waiting_for_episodes(3)
    'episodes; 3 pause after a failure'
    """
    return f"episodes; {pausing} pause after a failure" if pausing else "episodes"


class Silent:
    """Nobody watches."""

    def phase(self, name: str, total: int) -> None: ...
    def advance(self, done: int = 1) -> None: ...
    def episode(self, trajectory: Trajectory) -> None: ...
    def step(self, metrics: Mapping[str, float]) -> None: ...
    def waiting(self, what: str) -> None: ...
    def note(self, text: str) -> None: ...
