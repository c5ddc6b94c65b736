"""Graders that run in this process: as tasks of the event loop, off the rollout slots."""

import asyncio
from abc import ABC, abstractmethod

from ...envs.errors import EpisodeFailed
from ...envs.graders.grading import AnyGrader, ask, crash
from .job import Answer, Broken, GradeRequest, Inbox, Running, Verdicts
from .watch import MAX_POLL_S


class TaskAdapter(ABC):
    """Each try is a task. They die with the process, so that a restart submits them again."""

    is_durable = False
    poll_s: float | None = MAX_POLL_S

    def __init__(self) -> None:
        self._tries: dict[str, asyncio.Task[Verdicts | Broken]] = {}

    @abstractmethod
    async def grade(self, request: GradeRequest) -> Verdicts | Broken:
        """The answer. What it raises is a try that came to nothing."""

    async def open(self, inbox: Inbox) -> None:
        self._inbox = inbox

    async def close(self) -> None:
        """Stop every try."""
        for each in self._tries.values():
            each.cancel()
        await asyncio.gather(*self._tries.values(), return_exceptions=True)
        self._tries.clear()

    async def submit(self, request: GradeRequest) -> str:
        if request.key not in self._tries:
            each = asyncio.create_task(self._answer(request))
            each.add_done_callback(lambda _: self._inbox.wake(request.job))
            self._tries[request.key] = each
        return request.key

    async def poll(self, handle: str) -> Answer:
        if (each := self._tries.get(handle)) is None:
            return Broken(reason="lost: the grader went with the process that ran it")
        return each.result() if each.done() else Running(beat=str(asyncio.get_running_loop().time()))

    async def release(self, handle: str) -> None:
        if (each := self._tries.pop(handle, None)) is not None:
            each.cancel()
            await asyncio.gather(each, return_exceptions=True)

    async def _answer(self, request: GradeRequest) -> Verdicts | Broken:
        try:
            return await self.grade(request)
        except EpisodeFailed as error:
            return Broken(reason=crash(error.failed), is_retryable=error.failed.retryable)


class Inline(TaskAdapter):
    """Any grader of an environment as a job."""

    def __init__(self, grader: AnyGrader) -> None:
        super().__init__()
        self._grader = grader

    async def grade(self, request: GradeRequest) -> Verdicts | Broken:
        return Verdicts(each=await ask(self._grader, request.task, request.episodes))
