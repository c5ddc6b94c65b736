"""Numbers of a step, and the file that collects them."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, cast

from ..agents.evaluation import component_means, is_solved
from ..agents.trajectory import Group, Trajectory
from ..envs import Failed, Ungraded
from .advantages import Reason
from .folder import writing
from .judge import Judgement


def episode_metrics(groups: Sequence[Group], maximum: float) -> dict[str, float]:
    """What was collected: rewards over the graded, counts over all. An episode passes with `maximum`."""
    members = [member for group in groups for member in group.members]
    rewards = [m.reward for m in members if m.reward is not None and math.isfinite(m.reward)]
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
            "reward": math.fsum(reward / len(rewards) for reward in rewards),  # their sum may overflow
            "reward_min": min(rewards),
            "reward_max": max(rewards),
            "pass_rate": fmean(is_solved(reward, maximum) for reward in rewards),
        }
    found |= {f"component_{name}": mean for name, mean in component_means(members).items()}
    return found


def troubles(members: Iterable[Trajectory]) -> dict[str, int]:
    """How many of these tries have no number, by reason, the most common first."""
    found = Counter[str]()
    for member in members:
        match member.outcome:
            case Failed(stage=stage, cause=cause, message=message):
                found[f"{stage}: {cause}: {message}"] += 1
            case Ungraded(reason=reason):
                found[reason] += 1
            case _:
                pass
    return dict(found.most_common())


def judgement_metrics(judgement: Judgement) -> dict[str, float]:
    """Who was trained on, and why the rest was not."""
    reasons = Counter(each.reason.value for each in judgement.rejected)
    return {
        "accepted": len(judgement.accepted),
        **{f"rejected_{reason}": count for reason, count in sorted(reasons.items())},
    }


def bias_metrics(
    groups: Sequence[Group], judgement: Judgement, reward_range: tuple[float, float]
) -> dict[str, float]:
    """What the group policy does to the mean: `lost_share` of the episodes are in no baseline, `reward_kept`
    is the mean of the others, and with every reward that does not exist at the floor or at the maximum the
    mean of all would be `reward_lower` or `reward_upper`."""
    lost = {each.key for each in judgement.rejected if each.reason is not Reason.ZERO_VARIANCE}
    members = [member for group in groups for member in group.members]
    found = {"lost_share": fmean(member.key in lost for member in members)} if members else {}
    kept = [m.reward for m in members if m.key not in lost and m.reward is not None]
    if kept:
        found["reward_kept"] = math.fsum(reward / len(kept) for reward in kept)
    for name, bound in zip(("reward_lower", "reward_upper"), reward_range, strict=True):
        if members and math.isfinite(bound):
            rewards = (bound if member.reward is None else member.reward for member in members)
            all_of_them = [reward if math.isfinite(reward) else bound for reward in rewards]
            found[name] = math.fsum(reward / len(members) for reward in all_of_them)
    return found


def strict_json(value: object, indent: int | None = None) -> str:
    """JSON with null for each number that is not finite: it has no other word for it.

    >>> strict_json({"loss": float("nan"), "bounds": (0.5, float("inf"))})
    '{"loss": null, "bounds": [0.5, null]}'
    """
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: object) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {name: _finite(each) for name, each in cast(Mapping[str, object], value).items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in cast(list[object], value)]
    return value


class MetricsFile:
    """`metrics.jsonl`: one line a step."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, metrics: Mapping[str, Any]) -> None:
        """Append a line."""
        with writing(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(strict_json(metrics) + "\n")

    def rewrite(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Make the file anew, whatever is in it: the run file knows better (`Ledger.step`)."""
        partial = self._path.with_suffix(".partial")
        with writing(self._path):
            partial.write_text("".join(strict_json(row) + "\n" for row in rows), encoding="utf-8")
            partial.replace(self._path)
