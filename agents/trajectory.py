"""An episode with its tokens and its outcome, and the group of its siblings."""

import hashlib
from dataclasses import dataclass

from ..envs import Episode, Outcome, Scored, Ungraded
from .engine import PolicyVersion
from .tokengraph import TokenGraph


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class EpisodeKey:
    """Which episode of a run: unique, and the same after a restart."""

    split: str = "train"
    """"train", or the name of an evaluation such as "baseline"."""
    epoch: int
    """Counts passes over the tasks of the split."""
    task_id: str
    sample: int
    """0 .. group size - 1; a group size more for each time that another one took its place."""
    attempt: int = 0
    """Tries of this sample; over 0 after a retryable failure."""

    @property
    def columns(self) -> tuple[str, int, int, int]:
        """(task, epoch, sample, attempt): the key within its split, for records."""
        return self.task_id, self.epoch, self.sample, self.attempt

    @property
    def primary(self) -> tuple[str, int, str, int, int]:
        """(split, epoch, task, sample, attempt): its row in the run file."""
        return self.split, self.epoch, self.task_id, self.sample, self.attempt

    def seed(self, run_seed: int) -> int:
        """[0, 2**63): the episode's seed. Every attempt of a sample gets the same one."""
        text = f"{run_seed}/{self.split}/{self.epoch}/{self.task_id}/{self.sample}"
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Trajectory:
    """One finished episode."""

    key: EpisodeKey
    version: PolicyVersion
    """The policy that the episode started on."""
    episode: Episode
    graph: TokenGraph
    outcome: Outcome

    @property
    def reward(self) -> float | None:
        """None where no number exists."""
        return self.outcome.reward if isinstance(self.outcome, Scored) else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Played:
    """An episode that waits for its grade; the slot and the sandbox that it was played in are free again."""

    key: EpisodeKey
    version: PolicyVersion
    episode: Episode
    graph: TokenGraph

    def judged(self, outcome: Outcome) -> Trajectory:
        """The trajectory that an outcome makes of it."""
        return Trajectory(
            key=self.key, version=self.version, episode=self.episode, graph=self.graph, outcome=outcome
        )


NOT_YET = Ungraded(reason="waits for its grade")
"""Stands for the outcome of an episode that has none yet, where a record needs one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """The episodes of one task: one for each that was asked for, each on its last attempt."""

    task_id: str
    members: tuple[Trajectory, ...]
    """Ordered by sample."""
    replaced: tuple[Trajectory, ...] = ()
    """Those without a number whose places others took (`GroupRequest.refill`)."""

    @property
    def rollouts(self) -> tuple[Trajectory, ...]:
        """All that was played for it."""
        return self.members + self.replaced
