"""AWS as the grades of a run see it: a Lambda that runs a file's handler for each event, and a bucket.

    async with LambdaService(path) as service: ...  # LambdaEvent(ARN, endpoint_url=service.url, answers=...)

boto3 finds the bucket by AWS_ENDPOINT_URL_S3. Objects are also served as plain pages, to who brings no token.
"""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from palaestra.envs.graders._functions.host import Context, load_module

ARN = "arn:aws:lambda:eu-west-1:123456789012:function:judge"
MISSING = "<Error><Code>NoSuchKey</Code><Message>The specified key does not exist.</Message></Error>"


@dataclass
class LambdaService:
    """An event is taken with 202, run in a thread, and run again when it raised, as AWS does."""

    path: Path
    trouble: Iterator[int] = field(default_factory=lambda: iter(()))
    """The status of the next answers that are none."""
    runs_each: int = 1
    """AWS delivers at least once."""
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    """Events wait until it is open."""
    events: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    tries: list[str] = field(default_factory=list[str])
    """The key of every run of the handler."""
    objects: dict[str, bytes] = field(default_factory=dict[str, bytes])
    forbids: bool = False
    """Whoever asks for an object has no right to."""
    url: str = ""
    _running: set[asyncio.Task[None]] = field(default_factory=set[asyncio.Task[None]])

    async def __aenter__(self) -> "LambdaService":
        app = web.Application(client_max_size=1 << 24)
        app.router.add_post("/2015-03-31/functions/{name}/invocations", self._invoke)
        app.router.add_put("/{path:.+}", self._put)
        app.router.add_get("/{path:.+}", self._get)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        ((_, port),) = self._runner.addresses
        self.url = f"http://127.0.0.1:{port}"
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.idle()
        await self._runner.cleanup()

    async def idle(self) -> None:
        """Every event has been run."""
        self.gate.set()
        await asyncio.gather(*self._running)

    async def _invoke(self, request: web.Request) -> web.Response:
        if status := next(self.trouble, 0):
            kind = "TooManyRequestsException" if status == 429 else "ServiceException"
            return web.json_response(
                {"Message": "not now"}, status=status, headers={"x-amzn-ErrorType": kind}
            )
        assert request.headers["X-Amz-Invocation-Type"] == "Event"
        body = await request.text()
        self.events.append(json.loads(body))
        for _ in range(self.runs_each):
            run = asyncio.create_task(self._run(body))
            self._running.add(run)
        return web.Response(status=202)

    async def _run(self, body: str) -> None:
        await self.gate.wait()
        event = json.loads(body)
        for _ in range(3):
            self.tries.append(f"{event['id']}.{event['attempt']}")
            try:
                await asyncio.to_thread(self._handle, event, body)
            except Exception:  # every kind: the function's; nobody is told
                continue
            return

    def _handle(self, event: Any, body: str) -> None:
        load_module(str(self.path)).lambda_handler(event, Context("judge", body, 10.0))

    async def _put(self, request: web.Request) -> web.Response:
        self.objects[request.match_info["path"]] = await request.read()
        return web.Response()

    async def _get(self, request: web.Request) -> web.Response:
        if self.forbids:
            return web.Response(status=403, text="<Error><Code>AccessDenied</Code></Error>")
        found = self.objects.get(request.match_info["path"])
        return web.Response(status=404, text=MISSING) if found is None else web.Response(body=found)
