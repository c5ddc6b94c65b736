"""Both ways to Gymnasium.

gymnasium.make("palaestra.envs:palaestra/frozen-lake-v0")   an environment of ours, played in text; the module
                                                            before the colon registers it
GymnasiumEnv(make, describe=..., parse=...)                 any Gymnasium environment, played in messages
"""

import asyncio
import json
import string
import threading
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar, cast

import gymnasium
from gymnasium.envs.registration import EnvSpec

from .env import Env, Observation, Step
from .episode import Episode, StopReason
from .errors import no_exit
from .graders.grading import grade_episode
from .message import AssistantMessage, Message, ToolCall, ToolSpec, UserMessage
from .outcome import Scored
from .registry import env_names, load_env
from .task import Task
from .worker_env import adopt

T = TypeVar("T")


def register_all() -> None:
    """Tell Gymnasium about every installed environment, as "palaestra/<name>-v0". Loads none of them."""
    for name in env_names():
        spec = EnvSpec(f"palaestra/{name}-v0", entry_point=f"{__name__}:TextEnv", kwargs={"env": name})
        gymnasium.registry.setdefault(spec.id, spec)


class AnyText(gymnasium.spaces.Text):
    """Every string. Samples are short and printable."""

    def __init__(self) -> None:
        super().__init__(64, min_length=0, charset=string.printable)

    def contains(self, x: Any) -> bool:
        return isinstance(x, str)


class TextEnv(gymnasium.Env[str, str]):
    """An environment of ours as Gymnasium sees it; `options` are those of its `tasks`.

    An action is what the policy says; a JSON object {"name": ..., "arguments": {...}} is a tool call. Each
    reset draws a task by the seed, or takes the one in options={"task_id": ...}. The last reward includes
    the grade.
    """

    def __init__(self, env: str, **options: Any) -> None:
        self._class = load_env(env)
        self._tasks = self._class.tasks(**options)
        self._loop = _LoopThread()
        self._game: _Game | None = None
        self.observation_space = AnyText()
        self.action_space = AnyText()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self._end_game()
        number = int(self.np_random.integers(len(self._tasks)))
        task_id = (options or {}).get("task_id")
        task = self._tasks[number] if task_id is None else self._tasks.by_id(task_id)
        self._game = _Game(self._class(), task, seed=int(self.np_random.integers(1 << 31)))
        return self._loop.run(self._game.start()), {"task_id": task.id}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        assert self._game is not None, "reset comes first"
        text, reward, terminated, truncated = self._loop.run(self._game.step(action))
        return text, reward, terminated, truncated, {"task_id": self._game.task.id}

    def close(self) -> None:
        self._end_game()
        self._loop.close()

    def _end_game(self) -> None:
        if self._game is not None:
            game, self._game = self._game, None
            self._loop.run(game.env.close())


class _Game:
    """One episode played from outside: what `play` does, with the turns given by the caller."""

    def __init__(self, env: Env[Any], task: Task, seed: int) -> None:
        self.env, self.task, self.seed = adopt(env), task, seed
        self.grader, self.max_turns, self.reward_range = env.grader, env.budget.max_turns, env.reward_range
        self.messages: list[Message] = []
        self.rewards: list[float] = []
        self.num_opening = 0
        self.tools: tuple[ToolSpec, ...] = ()

    async def start(self) -> str:
        first = await self.env.reset(self.task, seed=self.seed)
        self.messages.extend(first.messages)
        self.num_opening = len(self.messages)
        self.tools = first.tools
        tools = [json.dumps(spec.to_openai()["function"]) for spec in self.tools]
        return _text(first, *tools)

    async def step(self, action: str) -> tuple[str, float, bool, bool]:
        said = _message(action)
        observation, reward, terminated, truncated, _ = await self.env.step(said)
        self.messages += [said, *observation.messages]
        self.rewards.append(float(reward))
        truncated = truncated or (not terminated and len(self.rewards) == self.max_turns)
        if self.grader is not None and (terminated or truncated):
            reward += await self._grade(StopReason.DONE if terminated else StopReason.TRUNCATED)
        return _text(observation), float(reward), bool(terminated), bool(truncated)

    async def _grade(self, stop: StopReason) -> float:
        episode = Episode(
            task_id=self.task.id,
            seed=self.seed,
            messages=tuple(self.messages),
            num_opening=self.num_opening,
            tools=self.tools,
            rewards=tuple(self.rewards),
            stop=stop,
            workspace=await self.env.workspace(),
        )
        outcome = await grade_episode(self.grader, self.task, episode, reward_range=self.reward_range)
        if not isinstance(outcome, Scored):
            raise RuntimeError(f"task {self.task.id!r} has no reward: {outcome}")
        return outcome.reward


def _text(observation: Observation, *more: str) -> str:
    return "\n".join([*(message.content for message in observation.messages), *more])


def _message(action: str) -> AssistantMessage:
    try:
        row = json.loads(action)
    except (ValueError, RecursionError):  # plain words
        return AssistantMessage(action)
    if not isinstance(row, dict):
        return AssistantMessage(action)
    call = cast(dict[str, Any], row)
    name, arguments = call.get("name"), call.get("arguments")
    if not isinstance(name, str) or not isinstance(arguments, dict):
        return AssistantMessage(action)
    arguments = cast(dict[str, Any], arguments)
    return AssistantMessage(tool_calls=(ToolCall(id="call-0", name=name, arguments=arguments),))


class _LoopThread:
    """An event loop in a thread of its own: callers may have a running loop, as notebooks do."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
            self._thread.start()
        return asyncio.run_coroutine_threadsafe(_without_exit(work), self._loop).result()

    def close(self) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
            self._loop = None


async def _without_exit(work: Coroutine[Any, Any, T]) -> T:
    with no_exit():
        return await work


class GymnasiumEnv(Env[Task]):
    """A Gymnasium environment played in messages. Its calls run on the event loop: they should be quick.

    class Blackjack(GymnasiumEnv):
        reward_range = (-1.0, 1.0)

    Blackjack(lambda task: gymnasium.make("Blackjack-v1"), describe=describe, parse=parse)
    """

    def __init__(
        self,
        make: Callable[[Task], gymnasium.Env[Any, Any]],
        *,
        describe: Callable[[gymnasium.Env[Any, Any], Any], str],
        parse: Callable[[str], Any],
    ) -> None:
        """`describe(game, observation)` is shown to the policy. `parse(text)` gives the action, or raises
        `ValueError` with what is wrong: the policy reads it, and has used up a turn."""
        self._make, self._describe, self._parse = make, describe, parse
        self._game: gymnasium.Env[Any, Any] | None = None
        self._num_unparsed = 0

    async def reset(self, task: Task, *, seed: int) -> Observation:
        """The task's messages, with the first description at the end."""
        self._game = self._make(task)
        described = self._describe(self._game, self._game.reset(seed=seed)[0])
        opening, last = task.messages, task.messages[-1:]
        if last and isinstance(last[0], UserMessage):  # many chat templates refuse two user messages in a row
            opening, described = opening[:-1], f"{last[0].content}\n{described}"
        return Observation(messages=(*opening, UserMessage(described)))

    async def step(self, action: AssistantMessage) -> Step:
        """Make the move that the message names."""
        assert self._game is not None, "reset comes first"
        try:
            move = self._parse(action.content)
        except ValueError as error:
            self._num_unparsed += 1
            return Step(Observation(messages=(UserMessage(str(error)),)), 0.0, False, False, {})
        seen, reward, terminated, truncated, _ = self._game.step(move)
        told = Observation(messages=(UserMessage(self._describe(self._game, seen)),))
        return Step(told, float(reward), bool(terminated), bool(truncated), {})

    def facts(self) -> Mapping[str, str]:
        """How many messages were no move."""
        return {"unparsed_actions": str(self._num_unparsed)}

    async def close(self) -> None:
        if self._game is not None:
            self._game.close()
