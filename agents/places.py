"""The places of a group, and who stands in each by the run file.

    sample 3 ──Ungraded──> sample 3 + n ──Failed──> sample 3 + 2n ──Scored──> the member

n: the group's size. Which rollout comes next follows from the run file alone, so that after kill -9 a place
is where it was: no rollout is made twice, and no order of events changes who is in the group.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ..envs import Failed, Task, Ungraded
from .engine import PolicyVersion
from .ledger import Ledger
from .trajectory import EpisodeKey, Group, Trajectory


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupRequest:
    """`num_samples` episodes of one task."""

    split: str
    epoch: int
    task: Task
    num_samples: int
    version: PolicyVersion
    refill: int = 0
    """So many more rollouts, each with a seed of its own, for a place whose episode has no number."""
    samples: tuple[int, ...] = ()
    """Which they are; empty: 0 .. num_samples - 1."""
    is_settled: bool = False
    """What the run file holds of it stands, failures too: a policy was trained on it."""

    def __post_init__(self) -> None:
        if self.samples and (self.refill or len(self.samples) != self.num_samples):
            raise ValueError(
                f"{self.num_samples} samples, refilled {self.refill} times, are not {self.samples}"
            )

    @property
    def places(self) -> tuple[int, ...]:
        """The first sample of each place."""
        return self.samples or tuple(range(self.num_samples))

    def rollouts(self, place: int) -> Iterator[EpisodeKey]:
        """Who may stand in a place, on the first try, in this order."""
        for again in range(self.refill + 1):
            sample = place + again * self.num_samples
            yield EpisodeKey(split=self.split, epoch=self.epoch, task_id=self.task.id, sample=sample)

    def place_of(self, key: EpisodeKey) -> int:
        """Where a rollout stands, or stood."""
        return key.sample % self.num_samples if self.refill else key.sample

    def next_rollout(self, key: EpisodeKey) -> EpisodeKey | None:
        """Who may stand in the place of `key`; None behind the last one."""
        sample = key.sample + self.num_samples
        if sample >= self.num_samples * (self.refill + 1):
            return None
        return replace(key, sample=sample, attempt=0)


@dataclass(frozen=True, slots=True)
class Places:
    """What a run file says of them."""

    ledger: Ledger
    is_graded_together: bool = False
    """Grades are of whole groups: one that lost its grade alone could not be compared with the others."""

    def last_try(self, key: EpisodeKey) -> tuple[Trajectory | None, EpisodeKey]:
        """A rollout's last try that has ended, and the key of the one after it."""
        kept = None
        while (stored := self.ledger.finished(key)) is not None:
            kept, key = stored, next_try(key)
            if not is_retryable(kept):
                break
        return kept, key

    def replacement(self, request: GroupRequest, member: Trajectory) -> EpisodeKey | None:
        """The rollout that shall take the place of an episode that has ended; None: it keeps its place."""
        key = request.next_rollout(member.key)
        if key is None or not self._is_lost(member):
            return None
        return None if request.is_settled and not self.ledger.is_issued(key) else key

    def is_over(self, request: GroupRequest, member: Trajectory) -> bool:
        """Whether a failed rollout gets no new tries: a policy was trained on it, or it was replaced."""
        key = self.replacement(request, member)
        return request.is_settled or (key is not None and self.ledger.is_issued(key))

    def group(self, request: GroupRequest, members: Sequence[Trajectory]) -> Group:
        """Of the members that a request has come to."""
        ordered = tuple(sorted(members, key=lambda member: member.key))
        replaced = tuple(lost for member in ordered for lost in self._before(request, member))
        return Group(task_id=request.task.id, members=ordered, replaced=replaced)

    def _before(self, request: GroupRequest, member: Trajectory) -> Iterator[Trajectory]:
        """Whom a member has replaced."""
        for key in request.rollouts(request.place_of(member.key)):
            if key.sample >= member.key.sample:
                return
            lost, _ = self.last_try(key)
            assert lost is not None, f"{key} was replaced before it had ended"
            yield lost

    def _is_lost(self, member: Trajectory) -> bool:
        """No number, for another reason than that its group did not wait for it."""
        match member.outcome:
            case Failed():
                return True
            case Ungraded(is_late=is_late):
                return not is_late and not self.is_graded_together
            case _:
                return False


def first_try(key: EpisodeKey) -> EpisodeKey:
    """The same for every try of a rollout."""
    return replace(key, attempt=0)


def next_try(key: EpisodeKey) -> EpisodeKey:
    return replace(key, attempt=key.attempt + 1)


def is_retryable(trajectory: Trajectory) -> bool:
    """Whether it failed for a passing reason."""
    return isinstance(trajectory.outcome, Failed) and trajectory.outcome.retryable
