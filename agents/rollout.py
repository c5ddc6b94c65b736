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
from .trajectory import NOT_YET, EpisodeKey, Played, Trajectory


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
            played = await self._play(key, task, version)
            return played if isinstance(played, Trajectory) else await self._grade(task, *played)
        finally:
            self.whereabouts.pop(key, None)

    async def play(self, key: EpisodeKey, task: Task, version: PolicyVersion) -> Trajectory | Played:
        """Play the episode, and leave its grade to somebody else."""
        try:
            played = await self._play(key, task, version)
            return played if isinstance(played, Trajectory) else played[0]
        finally:
            self.whereabouts.pop(key, None)

    async def _play(
        self, key: EpisodeKey, task: Task, version: PolicyVersion
    ) -> Trajectory | tuple[Played, Env[Any]]:
        """What was played, and its environment; a trajectory where it failed."""
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
        try:
            with boundary("record"):
                graph = policy.graph if isinstance(policy, TokenPolicy) else TokenGraph()
                played = Played(key=key, version=version, episode=episode, graph=graph)
                Record.of(played.judged(episode.failure or NOT_YET)).read(key, version)
        except EpisodeFailed as error:
            return _without_episode(key, version, seed, replace(error.failed, retryable=False))
        return (played, env) if episode.failure is None else played.judged(episode.failure)

    async def _grade(self, task: Task, played: Played, env: Env[Any]) -> Trajectory:
        self.whereabouts[played.key] = "grade"
        outcome = await grade_episode(
            env.grader,
            task,
            played.episode,
            reward_range=env.reward_range,
            timeout_s=self.grader_timeout_s,
        )
        return played.judged(outcome)


def _without_episode(key: EpisodeKey, version: PolicyVersion, seed: int, failed: Failed) -> Trajectory:
    """What is left where nothing was played, or nothing that the run file could give back."""
    stop = StopReason.FAILED
    episode = Episode(task_id=key.task_id, seed=seed, messages=(), stop=stop, failure=failed)
    return Trajectory(key=key, version=version, episode=episode, graph=TokenGraph(), outcome=failed)
