"""An OpenAI-compatible endpoint on this machine, with answers as servers give them."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web


def says(finish: str = "stop", **message: Any) -> dict[str, Any]:
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", **message}}
    return {"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}


Answer = web.Response | dict[str, Any] | Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Endpoint:
    """Gives its answers one after the other, the last one again and again; remembers what it was asked."""

    answers: list[Answer]
    url: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    keys: list[str | None] = field(default_factory=list[str | None])

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(await request.json())
        self.keys.append(request.headers.get("Authorization"))
        found = self.answers[min(len(self.asked), len(self.answers)) - 1]
        if isinstance(found, dict):
            return web.json_response(found)
        if callable(found):
            return await found(request)
        return web.Response(status=found.status, text=found.text, headers=found.headers)


@asynccontextmanager
async def endpoint(*answers: Answer) -> AsyncGenerator[Endpoint]:
    found = Endpoint(list(answers))
    app = web.Application()
    app.router.add_post("/v1/chat/completions", found.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        found.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1/"
        yield found
    finally:
        await runner.cleanup()
