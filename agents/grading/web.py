"""Graders behind HTTP: 202 and a place to ask, or a callback to us."""

import json
from typing import Any

from yarl import URL

from .callback import CallbackServer
from .job import Answer, Broken, GradeRequest, GraderRefused, Running
from .remote import Remote
from .wire import read_answer, request_json

_GONE = frozenset({404, 410})


class Web(Remote):
    """Submits by POST with an `Idempotency-Key`; 200 is the answer, 202 names where to ask by `Location`.

    Web("https://grader.example/jobs", token_env="GRADER_TOKEN")
    """

    def __init__(
        self,
        url: str,
        *,
        token_env: str | None = None,
        callback: CallbackServer | None = None,
        timeout_s: float = 30.0,
    ) -> None:
        """`token_env`: the environment variable with a bearer token."""
        super().__init__(token_env=token_env, callback=callback, timeout_s=timeout_s)
        self._url = URL(url)
        if not self._url.is_absolute() or self._url.user is not None:
            raise ValueError(f"url {url!r}: give http(s)://host/path; a password goes into token_env")

    async def submit(self, request: GradeRequest) -> str:
        headers = {"Idempotency-Key": request.key, "Content-Type": "application/json"}
        status, location, text = await self._client.ask(
            "POST", self._url, request_json(request, **self._where(request)), headers
        )
        if status == 200:
            return json.dumps({"answer": text.decode(errors="replace")})
        if status != 202:
            raise GraderRefused(f"{self._url} answered {status} to a new job: {text[:200]!r}")
        if location is None:
            if self._callback is None:
                raise GraderRefused(f"{self._url} answered 202 without Location: there is nowhere to ask")
            return json.dumps({"url": None})
        place = self._url.join(URL(location))
        if place.origin() != self._url.origin():
            raise GraderRefused(f"{self._url} names {place}, which is another host: it would get the token")
        return json.dumps({"url": str(place)})

    async def poll(self, handle: str) -> Answer:
        known: dict[str, Any] = json.loads(handle)
        if "answer" in known:
            return read_answer(known["answer"])
        if known["url"] is None:
            return Running()
        status, _, text = await self._client.ask("GET", URL(known["url"]))
        if status in _GONE:
            return Broken(reason=f"lost: {known['url']} answered {status}")
        if status not in (200, 202):
            return Broken(
                reason=f"nonsense: {known['url']} answered {status}: {text[:200]!r}", is_retryable=False
            )
        if status == 202 and not text.strip():
            return Running()
        return read_answer(text)

    async def release(self, handle: str) -> None:
        """Many graders have no DELETE; then there is nothing to do."""
        if (url := json.loads(handle).get("url")) is not None:
            await self._client.ask("DELETE", URL(url))
