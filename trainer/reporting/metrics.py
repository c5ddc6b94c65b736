"""Numbers of a step, and the file that collects them."""

import json
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, cast

from ...agents.evaluation import component_means, is_solved
from ...agents.trajectory import EpisodeKey, Group, Trajectory
from ...envs import Episode, Failed, StopReason, Ungraded
from ..advantages import Reason
from ..folder import writing
from ..judge import Judgement
from ..overlong import Overlong

IN_BASELINE = (Reason.ZERO_VARIANCE, Reason.MASKED)
"""Why an episode may be left out of the loss, and yet its siblings are compared with it."""


def episode_metrics(groups: Sequence[Group], maximum: float) -> dict[str, float]:
    """What was collected: rewards over the graded, counts over all. An episode passes with `maximum`."""
    members = [member for group in groups for member in group.rollouts]
    rewards = [m.reward for m in members if m.reward is not None and math.isfinite(m.reward)]
    kinds = Counter(member.outcome.kind for member in members)
    found: dict[str, float] = {
        "episodes": len(members),
        "scored": kinds["scored"],
        "ungraded": kinds["ungraded"],
        "failed": kinds["failed"],
        "truncated": sum(member.episode.is_truncated for member in members),
        "sampled_tokens": sum(member.graph.num_sampled for member in members),
        "turns": fmean(member.episode.num_turns for member in members),
        "forks": sum(member.graph.num_forks for member in members),
        **_lengths(members),
        **_waits(members),
    }
    if rewards:  # with nothing graded there is no mean, not a mean of zero
        found |= {
            "reward": mean(rewards),
            "reward_min": min(rewards),
            "reward_max": max(rewards),
            "pass_rate": fmean(is_solved(reward, maximum) for reward in rewards),
        }
    found |= {f"component_{name}": mean for name, mean in component_means(members).items()}
    return found


def _lengths(members: Sequence[Trajectory]) -> dict[str, float]:
    """Of the episodes that were played: what the policy sampled in each, and what each began with."""
    played = [member for member in members if member.graph.num_sampled]
    if not played:
        return {}
    lengths = [member.graph.num_sampled for member in played]
    prompts = [len(member.graph.segments[0].calls[0].prompt_ids) for member in played]
    return {
        "length": fmean(lengths),
        "length_min": min(lengths),
        "length_max": max(lengths),
        "prompt_length": fmean(prompts),
        "prompt_length_max": max(prompts),
        "truncated_share": fmean(member.episode.is_truncated for member in played),
        "cut_share": fmean(_is_cut(member.episode) for member in played),
    }


def _is_cut(episode: Episode) -> bool:
    """By a number of tokens: of its last answer, of all its answers, or of the context."""
    last = episode.answers[-1].usage if episode.answers else None
    is_at_limit = episode.stop in (StopReason.MAX_TOKENS, StopReason.CONTEXT)
    return is_at_limit or (last is not None and last.finish == "length")


def _waits(members: Sequence[Trajectory]) -> dict[str, float]:
    """Mean seconds in which an episode waited for the engine and for the environment, and the slowest one."""
    times = [member.episode.timing for member in members]
    return {
        "policy_s": fmean(time.policy_s for time in times),
        "env_s": fmean(time.env_s for time in times),
        "slowest_episode_s": max(time.wall_s for time in times),
    }


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
        **_zero_variance(judgement),
        **{f"rejected_{reason}": count for reason, count in sorted(reasons.items())},
    }


def _zero_variance(judgement: Judgement) -> dict[str, float]:
    """The share of the groups with a baseline that teach nothing: all their advantages are 0."""
    groups: dict[tuple[int, str], bool] = {}
    for each in judgement.accepted:
        place = each.trajectory.key.epoch, each.trajectory.key.task_id
        teaches = any(each.turns or (each.advantage,))
        groups[place] = groups.get(place, False) or teaches
    for lost in judgement.rejected:
        if lost.reason is Reason.ZERO_VARIANCE:
            groups.setdefault((lost.key.epoch, lost.key.task_id), False)
    if not groups:
        return {}
    return {"zero_variance_share": fmean(not teaches for teaches in groups.values())}


def bias_metrics(
    groups: Sequence[Group], judgement: Judgement, reward_range: tuple[float, float]
) -> dict[str, float]:
    """What the group policy does to the mean: `lost_share` of the rollouts are in no baseline, `reward_kept`
    is the mean of the others, and with every reward that does not exist at the floor or at the maximum the
    mean of all would be `reward_lower` or `reward_upper`.

    Where members were replaced, `refilled` places have a number that had none, and `refill_shift` is by how
    much that moved `reward_kept` from what it would be without them.
    """
    lost = {each.key for each in judgement.rejected if each.reason not in IN_BASELINE}
    members = [member for group in groups for member in group.rollouts]
    found = {"lost_share": fmean(member.key in lost for member in members)} if members else {}
    kept = [m.reward for m in members if m.key not in lost and m.reward is not None]
    if kept:
        found["reward_kept"] = mean(kept)
    for name, bound in zip(("reward_lower", "reward_upper"), reward_range, strict=True):
        if members and math.isfinite(bound):
            rewards = (bound if member.reward is None else member.reward for member in members)
            found[name] = mean([reward if math.isfinite(reward) else bound for reward in rewards])
    return found | _refills(groups, lost)


def _refills(groups: Sequence[Group], lost: Collection[EpisodeKey]) -> dict[str, float]:
    if not any(group.replaced for group in groups):
        return {}
    kept = [(g, m) for g in groups for m in g.members if m.key not in lost]
    first = [m.reward for g, m in kept if m.reward is not None and m.key.sample < len(g.members)]
    later = [m.reward for g, m in kept if m.reward is not None and m.key.sample >= len(g.members)]
    found = {"replaced": float(sum(len(g.replaced) for g in groups)), "refilled": float(len(later))}
    if first:
        found["refill_shift"] = mean([*first, *later]) - mean(first)
    return found


def overlong_metrics(groups: Sequence[Group], overlong: Overlong | None) -> dict[str, float]:
    """What it does to some groups as they were graded; nothing where there is none, or nothing has a
    number."""
    members = [member for group in groups for member in group.members]
    scored = [] if overlong is None else [(m.reward, overlong(m.graph.num_sampled)) for m in members]
    pairs = [(reward, penalty) for reward, penalty in scored if reward is not None]
    if not pairs:
        return {}
    rewards = [reward + penalty for reward, penalty in pairs]
    return {
        "reward_shaped": mean(rewards),
        "reward_shaped_min": min(rewards),
        "reward_shaped_max": max(rewards),
        "overlong_penalty": mean([penalty for _, penalty in pairs]),
        "overlong_share": mean([float(penalty < 0) for _, penalty in pairs]),
    }


def mean(values: Sequence[float]) -> float:
    """Of rewards whose sum may overflow.

    >>> mean([1.7e308, 1.7e308])
    1.7e+308
    """
    return math.fsum(value / len(values) for value in values)


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
