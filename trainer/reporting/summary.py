"""What a run came to: `summary.json`, all of it read from the run file."""

import dataclasses
import time
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from ...agents.evaluation import Evaluation, Passing, summarize
from ...agents.ledger import Ledger
from ...agents.trajectory import Group, Trajectory
from ..early_stopping import STOPPED
from ..folder import write_whole, writing
from ..recipe import Recipe
from .metrics import strict_json


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """The figures of a run."""

    name: str
    seed: int
    steps: int
    stopped: str | None
    """Why training ended before its last step; None: it did not."""
    seconds: float
    """Wall seconds, over every start of the run but those that were killed."""
    evaluations: dict[str, Evaluation]
    """By name, in the order of the run: baseline, warm-start, step-..., final."""
    train: dict[str, Any]
    """Training episodes: by outcome, by stop reason, and the reasons why some were not trained on."""

    def to_json(self) -> dict[str, Any]:
        """For machines."""
        return dataclasses.asdict(self)

    def write(self, path: Path) -> None:
        with writing(path):
            write_whole(path, strict_json(self.to_json(), indent=2) + "\n")


@contextmanager
def counting_seconds(ledger: Ledger) -> Generator[None, None, None]:
    """Add the block's wall seconds to the run's."""
    started = time.monotonic()
    try:
        yield
    finally:
        before = float(ledger.meta("seconds") or 0.0)
        ledger.set_meta("seconds", str(before + time.monotonic() - started))


def summarize_run(recipe: Recipe, reward_range: tuple[float, float], ledger: Ledger) -> Summary:
    """Read the run file."""
    splits = [split for split in ledger.splits() if split not in ("train", "demonstrations")]
    records = [record for step in ledger.step_numbers() if (record := ledger.step(step)) is not None]
    counts, passing = ledger.counts("train"), recipe.evaluation.passing
    return Summary(
        name=recipe.name,
        seed=recipe.seed,
        steps=len(records),
        stopped=ledger.meta(STOPPED),
        seconds=float(ledger.meta("seconds") or 0.0),
        evaluations={split: evaluation_of(ledger, split, reward_range, passing) for split in splits},
        train={
            "issued": counts.total(),
            "scored": counts["scored"],
            "ungraded": counts["ungraded"],
            "failed": counts["failed"],
            "in_flight": counts["issued"],
            "waiting_for_grades": counts["played"],
            "stops": dict(ledger.stops("train")),
            "rejected": dict(Counter(reason for record in records for *_, reason, _ in record["rejected"])),
        },
    )


def evaluation_of(
    ledger: Ledger, split: str, reward_range: tuple[float, float], passing: Passing
) -> Evaluation:
    """The evaluation that the run file holds under a name; of a retried sample the last try counts."""
    last: dict[tuple[str, int], Trajectory] = {}
    for trajectory in ledger.trajectories(split):  # ordered by key, so that a later attempt replaces
        last[trajectory.key.task_id, trajectory.key.sample] = trajectory
    members = sorted(last.values(), key=lambda member: member.key)
    groups = [
        Group(task_id=task_id, members=tuple(found))
        for task_id, found in groupby(members, key=lambda member: member.key.task_id)
    ]
    return summarize(split, groups, reward_range, passing)
