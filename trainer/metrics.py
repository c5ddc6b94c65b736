"""Numbers of a step, and the file that collects them."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from ..agents.trajectory import Group
from .folder import writing
from .judge import Judgement


def episode_metrics(groups: Sequence[Group], maximum: float) -> dict[str, float]:
    """What was collected: rewards over the graded, counts over all. An episode passes with `maximum`."""
    members = [member for group in groups for member in group.members]
    rewards = [member.reward for member in members if member.reward is not None]
    kinds = Counter(member.outcome.kind for member in members)
    found: dict[str, float] = {
        "episodes": len(members),
        "scored": kinds["scored"],
        "ungraded": kinds["ungraded"],
        "failed": kinds["failed"],
        "truncated": sum(member.episode.stop.is_truncated for member in members),
        "sampled_tokens": sum(member.graph.num_sampled for member in members),
        "turns": fmean(member.episode.num_turns for member in members),
    }
    if rewards:  # with nothing graded there is no mean, not a mean of zero
        found |= {
            "reward": fmean(rewards),
            "reward_min": min(rewards),
            "reward_max": max(rewards),
            "pass_rate": fmean(reward >= maximum - 1e-9 for reward in rewards),
        }
    return found


def judgement_metrics(judgement: Judgement) -> dict[str, float]:
    """Who was trained on, and why the rest was not."""
    reasons = Counter(each.reason.value for each in judgement.rejected)
    return {
        "accepted": len(judgement.accepted),
        **{f"rejected_{reason}": count for reason, count in sorted(reasons.items())},
    }


def _is_not_finite(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


class MetricsFile:
    """`metrics.jsonl`: one line a step."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, metrics: Mapping[str, Any]) -> None:
        """Append a line. A number that is not finite becomes null: JSON has no other word for it."""
        metrics = {name: None if _is_not_finite(value) else value for name, value in metrics.items()}
        with writing(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(metrics) + "\n")

    def read(self) -> list[dict[str, Any]]:
        """All lines, in order; a line that a crash cut short is left out."""
        if not self._path.exists():
            return []
        lines = self._path.read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines[:-1]]

    def keep_until(self, step: int) -> None:
        """Forget the steps after `step`, which will be made again."""
        kept = [row for row in self.read() if row["step"] <= step]
        partial = self._path.with_suffix(".partial")
        with writing(self._path):
            partial.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
            partial.replace(self._path)
