"""Reward functions written for AWS: `lambda_handler(event, context)`, unmodified."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal
from weakref import WeakKeyDictionary

from ...sandboxes import SandboxSpec
from ...sandboxes.backoff import backoff_s
from ..episode import Episode, Workspace
from ..outcome import Score
from ..task import Task
from ._functions.batches import Batches
from ._functions.calls import Call, InSandbox, InWorker, OnLambda, OverHttp
from ._functions.reply import RewardBusy, RewardFailed, read_reply
from ._functions.sample import Sample, to_sample

HANDLER = "lambda_handler"
TIMEOUT_S = 30.0
"""Of one call, unless told otherwise."""


class LambdaReward:
    """Asks a function that takes samples and returns `{id, aggregate_reward_score, metrics_list}` for each.

    >>> LambdaReward("lambda_function.py")                     # in a worker process
    >>> LambdaReward("lambda_function.py", where="sandbox")    # behind walls, without a network
    >>> LambdaReward("https://example.org/grade")              # a function URL, or any server
    >>> LambdaReward("arn:aws:lambda:eu-west-1:123456789012:function:grade")

    Episodes that are graded at the same time share a call. Metrics become `Score.components`. What is wrong
    with one row is raised for its sample alone. A call that breaks, takes too long or stays at 5xx is made
    again sample by sample, and each grade is there as soon as its own call is over, so that no answer takes
    the others' grades with it. Where fewer than `concurrency` answers of a call hang, the others wait for one
    `timeout_s`: the grader's limit should be twice as long.
    """

    def __init__(
        self,
        source: str,
        *,
        where: Literal["worker", "sandbox"] = "worker",
        sandbox: SandboxSpec | None = None,
        batch: int = 16,
        concurrency: int = 4,
        timeout_s: float = TIMEOUT_S,
        retries: int = 4,
        retry_s: float = 0.5,
        api_key_env: str | None = None,
        endpoint_url: str | None = None,
    ) -> None:
        """`batch`: samples of one call; `concurrency`: calls at a time. `timeout_s`: of one call.

        `retries` come only after throttling, 5xx and a connection that was refused, after about `retry_s`
        seconds, twice as long each time, with jitter. `api_key_env`: variable with a bearer token, for HTTP.
        `endpoint_url`: another server that speaks Lambda's API.
        """
        if sandbox is not None and where != "sandbox":
            raise ValueError(f"sandbox: {sandbox!r:.200} is used only with where: sandbox; set that too")
        self.source = source
        self._batch, self._concurrency = batch, concurrency
        self._retries, self._retry_s = retries, retry_s
        self._trouble = ""
        if source.startswith(("http://", "https://")):
            self._invoke: Call = OverHttp(url=source, timeout_s=timeout_s, api_key_env=api_key_env)
        elif source.startswith(("arn:", "lambda:")):
            name = source.removeprefix("lambda:")
            self._invoke = OnLambda(name, timeout_s=timeout_s, endpoint_url=endpoint_url)
        else:
            file, _, name = source.partition(":")
            path, name = Path(file).absolute(), name or HANDLER
            if where == "sandbox":
                spec = sandbox or SandboxSpec()
                self._invoke = InSandbox(path=path, name=name, timeout_s=timeout_s, spec=spec)
            else:
                self._invoke = InWorker(path, name, concurrency=concurrency, timeout_s=timeout_s)
        # A grader outlives event loops; futures and tasks do not.
        self._batches: WeakKeyDictionary[asyncio.AbstractEventLoop, Batches[Sample, Score]]
        self._batches = WeakKeyDictionary()

    def __repr__(self) -> str:
        return f"LambdaReward({self.source!r})"

    async def check(self) -> None:
        """Raise `RewardFailed` for a file that a worker cannot load and a server that is not there, and
        `SandboxUnavailable`; the first call tells the rest."""
        await self._invoke.check()

    async def grade(self, task: Task, episode: Episode, workspace: Workspace | None) -> Score:
        """Raises `RewardFailed`, and `RewardBusy` after the last try."""
        loop = asyncio.get_running_loop()
        if loop not in self._batches:
            self._batches[loop] = Batches(
                self._ask_with_retries,
                batch=self._batch,
                concurrency=self._concurrency,
                is_ones_doing=_is_ones_doing,
            )
        try:
            score = await self._batches[loop].ask(to_sample(task, episode))
        except asyncio.CancelledError as error:
            if self._trouble:
                error.add_note(f"the last trouble: {self._trouble}")
            raise
        return replace(score)

    async def _ask_with_retries(self, samples: Sequence[Sample]) -> Sequence[Score | Exception]:
        failures = 0
        while True:
            try:
                scores = await self._ask_once(samples)
            except RewardBusy as busy:
                self._trouble = str(busy)
                failures += 1
                if failures > self._retries:
                    problem = f"no answer in {failures} tries; the last one: {busy}"
                    raise RewardBusy(problem, was_heard=busy.was_heard) from busy
                pause_s = backoff_s(self._retry_s, failures, at_least_s=busy.after_s)
            else:
                self._trouble = ""
                return scores
            await asyncio.sleep(pause_s)

    async def _ask_once(self, samples: Sequence[Sample]) -> Sequence[Score | Exception]:
        event = _distinct(samples)
        reply = await self._invoke(event)
        return read_reply(reply, [sample["id"] for sample in event])


def _is_ones_doing(error: Exception) -> bool:
    """Whether a call without one of its samples might have gone better."""
    return isinstance(error, RewardFailed) or (isinstance(error, RewardBusy) and error.was_heard)


def _distinct(samples: Sequence[Sample]) -> list[Sample]:
    """The samples with ids of their own: the same episode may be graded twice."""
    seen: dict[str, int] = {}
    event: list[Sample] = []
    for sample in samples:
        times = seen[sample["id"]] = seen.get(sample["id"], 0) + 1
        event.append(sample if times == 1 else {**sample, "id": f"{sample['id']}#{times}"})
    return event
