"""Environments with plain `def` methods, played in a worker process that a limit can kill."""

import asyncio
import inspect
import pickle
from collections.abc import Awaitable, Mapping
from typing import Any

from .env import Env, Observation, Step
from .episode import Workspace
from .message import AssistantMessage
from .task import Task
from .worker import Worker


def adopt(env: Env[Any]) -> Env[Any]:
    """The environment itself, or its stand-in where `reset`, `step` or `close` would block the event loop."""
    if all(map(inspect.iscoroutinefunction, (env.reset, env.step, env.close))):
        return env
    return WorkerEnv(env)


class WorkerEnv(Env[Any]):
    """Stands in for an environment that lives in a worker process."""

    def __init__(self, env: Env[Any]) -> None:
        self._env = env
        self._worker: Worker | None = None
        self._facts: Mapping[str, str] = {}

    async def reset(self, task: Task, *, seed: int) -> Observation:
        """Move the environment into its process and start it there."""
        try:
            packed = pickle.dumps(self._env)
        except Exception as error:  # every kind: foreign classes pickle themselves
            raise TypeError(
                f"{type(self._env).__name__} has plain `def` methods and cannot move to a worker process: "
                f"{error}; define it at the top of a module, or make reset, step and close `async def`"
            ) from error
        self._worker = Worker.hire()
        await self._worker.call(_host, packed)
        first: Observation = await self._call("reset", task, seed=seed)
        return first

    async def step(self, action: AssistantMessage) -> Step:
        step: Step = await self._call("step", action)
        return step

    async def workspace(self) -> Workspace | None:
        """The environment's files; None when its process had to be killed."""
        if self._worker is None or not self._worker.is_usable:
            return None
        workspace: Workspace | None = await self._call("workspace")
        return workspace

    def facts(self) -> Mapping[str, str]:
        return self._facts

    async def close(self) -> None:
        """Close the environment and give the process back."""
        if self._worker is None:
            return
        try:
            if self._worker.is_usable:
                await self._call("close")
        finally:
            self._worker.release()

    async def _call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        assert self._worker is not None, "reset comes first"
        result, self._facts = await self._worker.call(_act, method, args, kwargs)
        return result


# In the worker process: the environment of the episode under way, and a loop for the methods that are async.
_hosted: Env[Any] | None = None
_runner = asyncio.Runner()


def _host(packed: bytes) -> None:
    global _hosted
    _hosted = pickle.loads(packed)


def _act(method: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, Mapping[str, str]]:
    assert _hosted is not None, "the environment moves in first"
    result = getattr(_hosted, method)(*args, **kwargs)
    if inspect.isawaitable(result):
        result = _runner.run(_awaited(result))
    return result, _hosted.facts()


async def _awaited(result: Awaitable[Any]) -> Any:
    return await result
