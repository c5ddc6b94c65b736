"""Stored episodes graded again, without new rollouts, into a run file of their own.

The run that they come from is only read: what it was trained on stays as it was.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass, replace
from itertools import groupby

from ...envs import Task, TaskSet
from ..collector import Collector, GroupRequest
from ..engine import PolicyVersion
from ..evaluation import Evaluation, summarize
from ..ledger import Ledger
from ..tokengraph import TokenGraph
from ..trajectory import EpisodeKey, Group, Played, Trajectory
from .stage import Grading

Place = tuple[int, str]
"""(epoch, task): where a group stands in its split."""


class TasksMissing(Exception):
    """Stored episodes are of tasks that are not there any more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Regraded:
    """One split, as it was graded and as it is graded now."""

    before: Evaluation
    after: Evaluation
    num_changed: int
    """Episodes whose reward is another one, or that have one now or had one before."""


async def regrade(
    source: Ledger,
    target: Ledger,
    grading: Grading,
    tasks: TaskSet,
    split: str,
    *,
    reward_range: tuple[float, float],
    on_group: Callable[[Group], None] = lambda group: None,
) -> Regraded:
    """Grade every finished episode of a split in `source` once more, into `target`, which `grading` works on.

    What `target` holds is not graded again. Raises `TasksMissing`.
    """
    stored = groups_of(source, split)
    known = {task.id for task in tasks}
    if missing := sorted({task_id for _, task_id in stored} - known):
        raise TasksMissing(
            f"{len(missing)} tasks of the split {split} are not among the recipe's any more, such as "
            f"{missing[0]!r}; the id of a row comes from what is in it: bring back the rows as they were"
        )
    requests = [
        GroupRequest(
            split=split,
            epoch=epoch,
            task=tasks.by_id(task_id),
            num_samples=len(group.members),
            samples=tuple(member.key.sample for member in group.members),
            version=group.members[0].version,
            is_settled=True,
        )
        for (epoch, task_id), group in stored.items()
    ]
    rollout = _Stored(member for group in stored.values() for member in group.members)
    collector = Collector(rollout, target, grading=grading, max_attempts=1)
    async with aclosing(collector.stream(requests)) as stream:
        async for _, group in stream:
            on_group(group)
    again = groups_of(target, split)
    return Regraded(
        before=summarize(split, list(stored.values()), reward_range),
        after=summarize(split, list(again.values()), reward_range),
        num_changed=sum(map(_num_changed, stored.values(), (again[place] for place in stored))),
    )


def groups_of(ledger: Ledger, split: str) -> dict[Place, Group]:
    """The finished episodes of a split in their groups; of a retried sample the last try."""
    last: dict[EpisodeKey, Trajectory] = {}
    for trajectory in ledger.trajectories(split):  # ordered by key, so that a later attempt replaces
        last[replace(trajectory.key, attempt=0)] = trajectory
    members = sorted(last.values(), key=lambda member: member.key)
    found: defaultdict[Place, list[Trajectory]] = defaultdict(list)
    for place, each in groupby(members, key=lambda member: (member.key.epoch, member.key.task_id)):
        found[place].extend(each)
    return {place: Group(task_id=place[1], members=tuple(each)) for place, each in found.items()}


class _Stored:
    """Plays what was played before. Tokens are not copied: no grader reads them."""

    def __init__(self, members: Iterable[Trajectory]) -> None:
        self._members = {replace(member.key, attempt=0): member for member in members}

    async def __call__(self, key: EpisodeKey, task: Task, version: PolicyVersion) -> Trajectory | Played:
        member = self._members[replace(key, attempt=0)]
        played = Played(key=key, version=member.version, episode=member.episode, graph=TokenGraph())
        failure = member.episode.failure
        return played if failure is None else played.judged(failure)


def _num_changed(before: Group, after: Group) -> int:
    now = {member.key.sample: member.reward for member in after.members}
    return sum(member.reward != now[member.key.sample] for member in before.members)
