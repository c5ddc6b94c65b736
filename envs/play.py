"""The loop. The same for oracles, chat endpoints and trained policies."""

import asyncio
import inspect
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from .budget import Budget
from .env import Env, Observation
from .episode import Episode, StopReason, Timing, Workspace
from .errors import EpisodeFailed, OutOfBudget, boundary, returned
from .message import AssistantMessage, Message, ToolSpec, storable, utf8
from .outcome import Failed, finite
from .policy import Policy
from .task import Task
from .worker_env import adopt

CLOSE_S = 30.0
"""Seconds that `workspace` and `close` get each: they run after the budgets have ended."""


async def put_away(env: Env[Any]) -> None:
    """Close an env that was made to be looked at and never played. A close that breaks changes nothing."""
    with suppress(EpisodeFailed), boundary("close"):
        async with asyncio.timeout(CLOSE_S):
            closing: object = env.close()
            if inspect.isawaitable(closing):  # a plain one is done already
                await closing


async def play(
    env: Env[Any],
    policy: Policy,
    task: Task,
    *,
    seed: int,
    budget: Budget | None = None,
    on_message: Callable[[Message], None] | None = None,
) -> Episode:
    """One episode of `task`. Whatever breaks is in `Episode.failure`; cancellation is raised.

    `budget` overrides the env's own limits one by one; `on_message` sees each message as it comes, and its
    errors are raised here.
    """
    limits = env.budget if budget is None else env.budget.merged(budget)
    run = _Play(adopt(env), policy, task, seed, limits, on_message or _ignore)
    workspace, failure = None, None
    try:
        stop = await run.to_the_end()
        workspace = await run.collect_workspace()
    except EpisodeFailed as error:
        stop, failure = StopReason.FAILED, error.failed
    finally:
        await run.close()
    return run.episode(stop, workspace, failure)


def _ignore(message: Message) -> None:
    """Nobody is watching."""


def _storable(observation: Observation) -> Observation:
    messages = tuple(map(storable, observation.messages))
    return replace(observation, messages=messages, tools=tuple(observation.tools))


def _never_asked(task: Task, stop: StopReason) -> Failed:
    """Not the policy's doing: a grade would blame it for a prompt or a budget that leaves no room to play."""
    message = f"task {task.id!r} left no room for a first answer; raise the limit, or shorten the prompt"
    return Failed(stage="policy", cause=stop.value, retryable=False, message=message)


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
        self.num_opening = 0
        self.tools: tuple[ToolSpec, ...] = ()
        self.rewards: list[float] = []
        self.sampled_tokens = self.context_tokens = 0
        self.spent_s = {"reset": 0.0, "policy": 0.0, "step": 0.0, "partner": 0.0}
        self.started = time.monotonic()
        self.facts: dict[str, str] = {}

    async def to_the_end(self) -> StopReason:
        """The turns, inside the wall limit."""
        limit = asyncio.timeout(self.limits.wall_s)
        try:
            async with limit:
                stop = await self._turns()
        except TimeoutError:
            if not limit.expired():
                raise  # from `on_message`
            stop = self._wall()
        if not self.rewards:
            raise EpisodeFailed(_never_asked(self.task, stop))
        return stop

    async def _turns(self) -> StopReason:
        """reset, then answer and step until something says stop."""
        await self._reset()
        while (stop := self._used_up()) is None:
            answer = await self._answer()
            if isinstance(answer, StopReason):
                return answer
            if (stop := await self._step(answer)) is not None:
                return stop
        return stop

    @contextmanager
    def _stage(self, name: str) -> Generator[None, None, None]:
        """Foreign code runs here: its errors fail the episode, its seconds go on its own account."""
        started, waited_s = time.monotonic(), self.env.waiting.seconds
        try:
            with boundary(name):
                yield
        finally:
            waited_s = self.env.waiting.seconds - waited_s
            self.spent_s["partner"] += waited_s
            self.spent_s[name] += time.monotonic() - started - waited_s

    async def _reset(self) -> None:
        with self._stage("reset"):
            first = await self.env.reset(self.task, seed=self.seed)
            first = _storable(returned(first, Observation, by="reset"))
        self.tools, self.num_opening = first.tools, len(first.messages)
        self._hear(first)

    async def _answer(self) -> AssistantMessage | StopReason:
        with self._stage("policy"):
            try:
                said = await self.policy(tuple(self.messages), self.tools)
            except OutOfBudget as error:
                return error.reason
            answer = storable(returned(said, AssistantMessage, by="the policy"))
            if answer.usage is not None:
                self.sampled_tokens += answer.usage.sampled_tokens
                self.context_tokens = answer.usage.prompt_tokens + answer.usage.sampled_tokens
        self.messages.append(answer)
        self.on_message(answer)
        return answer

    async def _step(self, answer: AssistantMessage) -> StopReason | None:
        """The stop reason, if the environment gave one or used up its seconds."""
        self.rewards.append(0.0)  # what the turn has earned if the step is cut short
        limit = asyncio.timeout(
            None if self.limits.env_s is None else self.limits.env_s - self.spent_s["step"]
        )
        try:
            async with limit:
                with self._stage("step"), self.env.waiting.pausing(limit):
                    observation, reward, terminated, truncated, _ = await self.env.step(answer)
                    self.rewards[-1] = finite(reward, "the reward of step")
                    observation = _storable(returned(observation, Observation, by="step"))
                    is_over, is_cut = bool(terminated), bool(truncated)
        except TimeoutError:
            return StopReason.ENV_SECONDS
        self._hear(observation)
        if is_over:
            return StopReason.DONE
        return StopReason.TRUNCATED if is_cut else None

    def _used_up(self) -> StopReason | None:
        """The first limit that is used up, looked at before each answer."""
        limits = self.limits
        used = (
            (StopReason.MAX_TURNS, len(self.rewards), limits.max_turns),
            (StopReason.MAX_TOKENS, self.sampled_tokens, limits.max_tokens),
            (StopReason.CONTEXT, self.context_tokens, limits.max_context),
            (StopReason.ENV_SECONDS, self.spent_s["step"], limits.env_s),
        )
        return next((reason for reason, much, most in used if most is not None and much >= most), None)

    def _hear(self, observation: Observation) -> None:
        self.messages.extend(observation.messages)
        for message in observation.messages:
            self.on_message(message)

    def _wall(self) -> StopReason:
        """Whoever took most of the time answers for it: the steps are the episode's own, the rest is ours."""
        slowest = max(self.spent_s, key=self.spent_s.__getitem__)
        if slowest == "step":
            return StopReason.WALL
        shares = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self.spent_s.items())
        message = f"wall_s={self.limits.wall_s:g} ran out: {shares}"
        raise EpisodeFailed(Failed(stage=slowest, cause="wall", retryable=True, message=message))

    async def collect_workspace(self) -> Workspace | None:
        with boundary("workspace"):
            async with asyncio.timeout(CLOSE_S):
                left = await self.env.workspace()
            if left is None:
                return None
            files = returned(left, Workspace, by="workspace").files
            return Workspace(files=tuple((utf8(path), data) for path, data in files))

    async def close(self) -> None:
        """Close the env, also under cancellation. A close that breaks is on record; the grade stands."""
        try:
            with boundary("close"):
                try:
                    for fact in self.env.facts().items():
                        name, value = (utf8(returned(text, str, by="facts")) for text in fact)
                        self.facts[name] = value
                finally:
                    async with asyncio.timeout(CLOSE_S):
                        await self.env.close()
        except EpisodeFailed as error:
            self.facts["close_error"] = str(error)

    def episode(self, stop: StopReason, workspace: Workspace | None, failure: Failed | None) -> Episode:
        env_s, policy_s = self.spent_s["reset"] + self.spent_s["step"], self.spent_s["policy"]
        wall_s = time.monotonic() - self.started
        return Episode(
            task_id=self.task.id,
            seed=self.seed,
            messages=tuple(self.messages),
            num_opening=self.num_opening,
            tools=self.tools,
            rewards=tuple(self.rewards),
            stop=stop,
            failure=failure,
            workspace=workspace,
            timing=Timing(env_s=env_s, policy_s=policy_s, wall_s=wall_s),
            env_info=tuple(sorted(self.facts.items())),
        )
