"""When to stop: no evaluation for a while was better than the best one before.

    step     0     10    20    30    40         patience 3, min_delta 0.02
    score    0.20  0.35  0.36  0.34  0.365      the best is 0.35; the three others are not over 0.37: stop

The scores are in the run file, so that a run that goes on after kill -9 stops where it would have. Imports
without torch.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from ..agents.ledger import Ledger
from .sections.watching import EarlyStoppingSection

SCORES = "scores"
"""The fact in a run file that holds the mean reward of each evaluation on the way, by step."""
STOPPED = "stopped"
"""The fact in a run file that says why training ended before its last step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stall:
    """Why to stop."""

    step: int
    """The evaluation that was the last one."""
    best_step: int
    best: float
    num_since: int
    """Evaluations since the best one."""
    min_delta: float

    def __str__(self) -> str:
        return (
            f"stopped early at step {self.step}: {self.num_since} evaluations in a row were not over the "
            f"{self.best:.3f} of step {self.best_step} by more than {self.min_delta:g}"
        )


def find_stall(scores: Mapping[int, float], patience: int, min_delta: float = 0.0) -> Stall | None:
    """The first time that `patience` evaluations in a row were not better than the best one before by more
    than `min_delta`; `scores` by step.

    >>> str(find_stall({0: 0.2, 10: 0.35, 20: 0.36, 30: 0.34, 40: 0.365}, 3, 0.02))
    'stopped early at step 40: 3 evaluations in a row were not over the 0.350 of step 10 by more than 0.02'
    """
    best_step, best, since = -1, float("-inf"), 0
    for step, score in sorted(scores.items()):
        if score > best + min_delta:
            best_step, best, since = step, score, 0
            continue
        since += 1
        if since == patience:
            return Stall(step=step, best_step=best_step, best=best, num_since=since, min_delta=min_delta)
    return None


@dataclass(frozen=True, slots=True)
class Scores:
    """What the evaluations of a run came to."""

    ledger: Ledger

    def add(self, step: int, score: float) -> None:
        """More is better. Said again of the same step, the last word counts."""
        self.ledger.set_meta(SCORES, json.dumps(self._all() | {f"{step}": score}))

    def stall(self, step: int, section: EarlyStoppingSection) -> Stall | None:
        """Whether a run that is at `step` should stop. What was said of later steps does not count: a run may
        have gone back to a checkpoint before them."""
        known = {int(number): score for number, score in self._all().items() if int(number) <= step}
        return find_stall(known, section.patience, section.min_delta)

    def _all(self) -> dict[str, float]:
        told: dict[str, float] = json.loads(self.ledger.meta(SCORES) or "{}")
        return told
