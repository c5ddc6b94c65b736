"""A grader behind HTTP that does what a test says: it takes jobs, forgets them, answers, calls back."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web


@dataclass(slots=True)
class ServedJob:
    """A try as the service knows it."""

    key: str
    asked: dict[str, Any]
    authorization: str
    is_alive: bool = True
    """Its worker lives: each look shows another beat."""
    answer: dict[str, Any] | None = None
    num_polls: int = 0


@dataclass
class GradeService:
    """async with GradeService() as service: ... service.url"""

    takes_after: int = 0
    """So many submissions meet a service that is down, though it takes them."""
    status: int = 202
    location: str = "/jobs/{key}"
    at_once: dict[str, Any] | None = None
    """The answer to the submission itself."""
    judge: Callable[[ServedJob], Awaitable[dict[str, Any] | None]] | None = None
    """What a job's answer is when somebody looks; None: not yet."""
    jobs: dict[str, ServedJob] = field(default_factory=dict[str, ServedJob])
    keys: list[str] = field(default_factory=list[str])
    """Of every submission that came."""
    deleted: list[str] = field(default_factory=list[str])
    url: str = ""

    async def __aenter__(self) -> "GradeService":
        app = web.Application(client_max_size=1 << 24)
        app.router.add_post("/jobs", self._submit)
        app.router.add_get("/jobs/{key}", self._poll)
        app.router.add_delete("/jobs/{key}", self._delete)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        ((_, port),) = self._runner.addresses
        self.url = f"http://127.0.0.1:{port}/jobs"
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._runner.cleanup()

    async def taken(self, number: int) -> ServedJob:
        """The job with that number, when it is there."""
        async with asyncio.timeout(60):
            while len(self.jobs) <= number:  # noqa: ASYNC110  # another process brings it
                await asyncio.sleep(0.01)
        return list(self.jobs.values())[number]

    async def call_back(self, job: ServedJob, body: Any, *, token: str | None = None, path: str = "") -> Any:
        """(status, what the run said) to an answer that is brought to it."""
        place = job.asked["callback"]
        headers = {"Authorization": f"Bearer {place['token'] if token is None else token}"}
        async with (
            aiohttp.ClientSession() as session,
            session.post(place["url"] + path, json=body, headers=headers) as said,
        ):
            return said.status, await said.json()

    async def _submit(self, request: web.Request) -> web.Response:
        key = request.headers["Idempotency-Key"]
        self.keys.append(key)
        if key not in self.jobs:
            authorization = request.headers.get("Authorization", "")
            self.jobs[key] = ServedJob(key=key, asked=await request.json(), authorization=authorization)
        if len(self.keys) <= self.takes_after:
            return web.Response(status=503)
        if self.at_once is not None:
            return web.json_response(self.at_once)
        headers = {"Location": self.location.format(key=key)} if self.location else {}
        return web.Response(status=self.status, headers=headers)

    async def _poll(self, request: web.Request) -> web.Response:
        if (job := self.jobs.get(request.match_info["key"])) is None:
            return web.Response(status=404)
        job.num_polls += 1
        if self.judge is not None and job.answer is None:
            job.answer = await self.judge(job)
        if job.answer is not None:
            return web.json_response(job.answer)
        beat = {"beat": job.num_polls} if job.is_alive else {}
        return web.json_response({"status": "running", **beat}, status=202)

    async def _delete(self, request: web.Request) -> web.Response:
        self.deleted.append(request.match_info["key"])
        return web.Response(status=204)
