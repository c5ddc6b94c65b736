"""One keyed episode from start to outcome: environment, policy, play, grade."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

from ..envs import (
    AssistantMessage,
    Budget,
    Env,
    Episode,
    Failed,
    Message,
    Policy,
    StopReason,
    Task,
    play,
)
from ..envs.errors import EpisodeFailed, boundary
from ..envs.graders import grade_episode
from .engine import PolicyVersion
from .record import Record
from .tokengraph import TokenGraph
from .trajectory import EpisodeKey, Trajectory


@runtime_checkable
class TokenPolicy(Policy, Protocol):
    """A policy that keeps the exact tokens of what it said. An oracle or a chat endpoint has none."""

    @property
    def graph(self) -> TokenGraph: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollout:
    """How to play one episode of a run. Always returns a trajectory; only cancellation is raised."""

    make_env: Callable[[], Env[Any]]
    make_policy: Callable[[Task, PolicyVersion, int], Policy]
    """(task, version, episode seed) -> a fresh policy."""
    run_seed: int
    budget: Budget | None = None
    grader_timeout_s: float = 60.0
    on_message: Callable[[Message], None] | None = None
    """Sees each message as it comes."""
    whereabouts: dict[EpisodeKey, str] = field(default_factory=dict[EpisodeKey, str])
    """What each episode in flight waits for: "reset", "policy", "step" or "grade"."""

    async def __call__(self, key: EpisodeKey, task: Task, version: PolicyVersion) -> Trajectory:
        """Play and grade the episode `key` of `task` on policy `version`."""
        try:
            return await self._play(key, task, version)
        finally:
            self.whereabouts.pop(key, None)

    async def _play(self, key: EpisodeKey, task: Task, version: PolicyVersion) -> Trajectory:
        seed = key.seed(self.run_seed)
        self.whereabouts[key] = "reset"
        try:
            with boundary("reset"):
                env, policy = self.make_env(), self.make_policy(task, version, seed)
        except EpisodeFailed as error:
            return _without_episode(key, version, seed, error.failed)

        def hear(message: Message) -> None:
            self.whereabouts[key] = "step" if isinstance(message, AssistantMessage) else "policy"
            if self.on_message is not None:
                self.on_message(message)

        episode = await play(env, policy, task, seed=seed, budget=self.budget, on_message=hear)
        self.whereabouts[key] = "grade"
        outcome = await grade_episode(
            env.grader,
            task,
            episode,
            reward_range=env.reward_range,
            timeout_s=self.grader_timeout_s,
        )
        graph = policy.graph if isinstance(policy, TokenPolicy) else TokenGraph()
        played = Trajectory(key=key, version=version, episode=episode, graph=graph, outcome=outcome)
        try:
            with boundary("record"):
                Record.of(played).read(key, version)
        except EpisodeFailed as error:
            return _without_episode(key, version, seed, replace(error.failed, retryable=False))
        return played


def _without_episode(key: EpisodeKey, version: PolicyVersion, seed: int, failed: Failed) -> Trajectory:
    """What is left where nothing was played, or nothing that the run file could give back."""
    stop = StopReason.FAILED
    episode = Episode(task_id=key.task_id, seed=seed, messages=(), stop=stop, failure=failed)
    return Trajectory(key=key, version=version, episode=episode, graph=TokenGraph(), outcome=failed)
