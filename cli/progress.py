"""A run in the terminal: a bar for the phase, and the figures of the newest step."""

import time
from collections import deque
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from ..agents.trajectory import Trajectory
from .console import printable

SHOWN = {
    "reward": "reward",
    "pass_rate": "pass rate",
    "entropy": "entropy",
    "kl": "KL",
    "sft_loss": "SFT loss",
}
"""Metrics of a step, and their names for people."""


class TerminalProgress:
    """Draws in place on a terminal; elsewhere it prints a line for each step, without control characters."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Progress(
            TextColumn("{task.description:>14}"),
            BarColumn(bar_width=32),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
        )
        self._live = Live(self._bars, console=console, refresh_per_second=4, transient=True)
        self._bar = self._bars.add_task("starting", total=None)
        self._figures, self._waiting = "", ""
        self._ended = deque[float](maxlen=512)

    def __enter__(self) -> "TerminalProgress":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def phase(self, name: str, total: int) -> None:
        self._bars.reset(self._bar, description=name, total=total)
        self._ended.clear()
        if not self._console.is_terminal:
            self._print(f"{name} ({total})")

    def advance(self, done: int = 1) -> None:
        self._bars.advance(self._bar, done)

    def episode(self, trajectory: Trajectory) -> None:
        self._ended.append(time.monotonic())
        self._draw()

    def step(self, metrics: Mapping[str, float]) -> None:
        figures = [f"{name} {metrics[key]:.3f}" for key, name in SHOWN.items() if key in metrics]
        self._figures = "  ".join([f"step {metrics['step']:.0f}", *figures])
        if self._console.is_terminal:
            self._draw()
            self._live.refresh()
        else:
            self._print("  ".join(part for part in (self._figures, self._speed()) if part))

    def waiting(self, what: str) -> None:
        self._waiting = printable(what)
        self._draw()

    def note(self, text: str) -> None:
        self._print(text)

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _speed(self) -> str:
        if len(self._ended) < 2 or self._ended[-1] == self._ended[0]:
            return ""
        return f"{(len(self._ended) - 1) / (self._ended[-1] - self._ended[0]):.0f} episodes/s"

    def _draw(self) -> None:
        """Hand over what the next refresh shows."""
        waiting = f"waits for {self._waiting}" if self._waiting else ""
        now = "  ".join(part for part in (self._speed(), waiting) if part)
        self._live.update(Group(self._bars, Text(self._figures), Text(now)))
