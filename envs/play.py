"""The loop. The same for oracles, chat endpoints and trained policies."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from .budget import Budget
from .env import Env, Observation
from .episode import Episode, StopReason, Timing, Workspace
from .errors import EpisodeFailed, OutOfBudget, boundary
from .message import AssistantMessage, Message, ToolSpec
from .outcome import Failed
from .policy import Policy
from .task import Task


async def play(
    env: Env[Any],
    policy: Policy,
    task: Task,
    *,
    seed: int,
    budget: Budget | None = None,
    on_message: Callable[[Message], None] | None = None,
) -> Episode:
    """One episode of `task`. Whatever breaks is in `Episode.failure`; only cancellation is raised.

    `budget` overrides the env's own limits one by one; `on_message` sees each message as it comes.
    """
    limits = env.budget if budget is None else env.budget.merged(budget)
    run = _Play(env, policy, task, seed, limits, on_message or _ignore)
    workspace, failure = None, None
    try:
        try:
            async with asyncio.timeout(limits.wall_s):
                stop = await run.to_the_end()
        except TimeoutError:
            stop = run.wall_limit()
        workspace = await run.collect_workspace()
    except EpisodeFailed as error:
        stop, failure = StopReason.FAILED, error.failed
    finally:
        await run.close()
    return run.episode(stop, workspace, failure)


def _ignore(message: Message) -> None:
    """Nobody is watching."""


class _Play:
    """The state of one episode under way."""

    def __init__(
        self,
        env: Env[Any],
        policy: Policy,
        task: Task,
        seed: int,
        limits: Budget,
        on_message: Callable[[Message], None],
    ) -> None:
        self.env, self.policy, self.task, self.seed, self.limits = env, policy, task, seed, limits
        self.on_message = on_message
        self.messages: list[Message] = []
        self.tools: tuple[ToolSpec, ...] = ()
        self.rewards: list[float] = []
        self.sampled_tokens = self.context_tokens = 0
        self.env_s = self.policy_s = 0.0
        self.started = time.monotonic()
        self.stage = "reset"
        self.facts: dict[str, str] = {}

    async def to_the_end(self) -> StopReason:
        """reset, then answer and step until something says stop."""
        first = await self._reset()
        self._hear(first)
        self.tools = first.tools
        while (stop := self._spent()) is None:
            try:
                answer = await self._answer()
            except OutOfBudget as error:
                return error.reason
            if (stop := await self._step(answer)) is not None:
                return stop
        return stop

    async def _reset(self) -> Observation:
        started = time.monotonic()
        try:
            with boundary("reset"):
                return await self.env.reset(self.task, seed=self.seed)
        finally:
            self.env_s += time.monotonic() - started

    async def _answer(self) -> AssistantMessage:
        self.stage, started = "policy", time.monotonic()
        try:
            with boundary("policy"):
                answer = await self.policy(tuple(self.messages), self.tools)
        finally:
            self.policy_s += time.monotonic() - started
        self._say(answer)
        return answer

    async def _step(self, answer: AssistantMessage) -> StopReason | None:
        self.stage, started = "step", time.monotonic()
        try:
            with boundary("step"):
                observation, reward, terminated, truncated, _ = await self.env.step(answer)
        finally:
            self.env_s += time.monotonic() - started
        self.rewards.append(float(reward))
        self._hear(observation)
        if terminated:
            return StopReason.DONE
        return StopReason.TRUNCATED if truncated else None

    def _spent(self) -> StopReason | None:
        """The first limit that is used up, looked at before each answer."""
        limits = self.limits
        if limits.max_turns is not None and len(self.rewards) >= limits.max_turns:
            return StopReason.MAX_TURNS
        if limits.max_tokens is not None and self.sampled_tokens >= limits.max_tokens:
            return StopReason.MAX_TOKENS
        if limits.max_context is not None and self.context_tokens >= limits.max_context:
            return StopReason.CONTEXT
        if limits.env_s is not None and self.env_s >= limits.env_s:
            return StopReason.ENV_SECONDS
        return None

    def _say(self, answer: AssistantMessage) -> None:
        self.messages.append(answer)
        self.on_message(answer)
        if answer.usage is not None:
            self.sampled_tokens += answer.usage.sampled_tokens
            self.context_tokens = answer.usage.prompt_tokens + answer.usage.sampled_tokens

    def _hear(self, observation: Observation) -> None:
        self.messages.extend(observation.messages)
        for message in observation.messages:
            self.on_message(message)

    def wall_limit(self) -> StopReason:
        """Time ran out. Under a slow engine that is our fault; in the environment it is the episode's."""
        if self.stage != "policy":
            return StopReason.WALL
        limit = f"wall_s={self.limits.wall_s:g} ran out while waiting for the policy"
        raise EpisodeFailed(Failed(stage="policy", cause="wall", retryable=True, message=limit))

    async def collect_workspace(self) -> Workspace | None:
        with boundary("workspace"):
            return await self.env.workspace()

    async def close(self) -> None:
        """Close the env, also under cancellation. A close that breaks is on record; the grade stands."""
        self.facts.update(self.env.facts())
        try:
            with boundary("close"):
                await self.env.close()
        except EpisodeFailed as error:
            self.facts["close_error"] = str(error)

    def episode(self, stop: StopReason, workspace: Workspace | None, failure: Failed | None) -> Episode:
        wall_s = time.monotonic() - self.started
        return Episode(
            task_id=self.task.id,
            seed=self.seed,
            messages=tuple(self.messages),
            tools=self.tools,
            rewards=tuple(self.rewards),
            stop=stop,
            failure=failure,
            workspace=workspace,
            timing=Timing(env_s=self.env_s, policy_s=self.policy_s, wall_s=wall_s),
            env_info=tuple(sorted(self.facts.items())),
        )
