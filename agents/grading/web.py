"""Graders behind HTTP: 202 and a place to ask, or a callback to us."""

import json
import os
from typing import Any

import aiohttp
from yarl import URL

from .callback import CallbackServer
from .job import Answer, Broken, GraderBusy, GradeRequest, GraderRefused, Inbox, Running
from .wire import MAX_ANSWER_BYTES, read_answer, request_json

_BUSY = frozenset({408, 409, 425, 429})
"""Below 500; everything from there on is, too."""
_GONE = frozenset({404, 410})
CALLBACK_POLL_S = 60.0
"""Beside callbacks that may get lost."""


class Web:
    """Submits by POST with an `Idempotency-Key`; 200 is the answer, 202 names where to ask by `Location`.

    Web("https://grader.example/jobs", token_env="GRADER_TOKEN")
    """

    is_durable = True

    def __init__(
        self,
        url: str,
        *,
        token_env: str | None = None,
        callback: CallbackServer | None = None,
        timeout_s: float = 30.0,
    ) -> None:
        """`token_env`: the environment variable with a bearer token. `callback`: where the answer shall go;
        then we look ourselves only once a minute."""
        self._url = URL(url)
        if not self._url.is_absolute() or self._url.user is not None:
            raise ValueError(f"url {url!r}: give http(s)://host/path; a password goes into token_env")
        self._headers = {} if token_env is None else {"Authorization": f"Bearer {_token(token_env)}"}
        self._callback, self._timeout = callback, aiohttp.ClientTimeout(total=timeout_s)
        self.poll_s: float | None = None if callback is None else CALLBACK_POLL_S

    async def open(self, inbox: Inbox) -> None:
        # Redirects are not followed: what is submitted has the answers in it.
        self._session = aiohttp.ClientSession(
            headers=self._headers, timeout=self._timeout, connector=aiohttp.TCPConnector(limit=32)
        )
        if self._callback is not None:
            await self._callback.open(inbox)

    async def close(self) -> None:
        await self._session.close()
        if self._callback is not None:
            await self._callback.close()

    async def submit(self, request: GradeRequest) -> str:
        more = {} if self._callback is None else {"callback": self._callback.address(request)}
        headers = {"Idempotency-Key": request.key, "Content-Type": "application/json"}
        status, location, text = await self._ask("POST", self._url, request_json(request, **more), headers)
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
        status, _, text = await self._ask("GET", URL(known["url"]))
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
            await self._ask("DELETE", URL(url))

    async def _ask(
        self, method: str, url: URL, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, str | None, bytes]:
        """(status, Location, body). Raises `GraderBusy`."""
        try:
            async with self._session.request(
                method, url, data=body, headers=headers, allow_redirects=False
            ) as answer:
                text = await answer.content.read(MAX_ANSWER_BYTES)
                while not answer.content.at_eof() and len(text) < MAX_ANSWER_BYTES:
                    text += await answer.content.read(MAX_ANSWER_BYTES - len(text))
        except (aiohttp.ClientError, TimeoutError) as error:
            raise GraderBusy(f"{method} {url}: {type(error).__name__}: {error}") from error
        if answer.status in _BUSY or answer.status >= 500:
            raise GraderBusy(f"{method} {url} answered {answer.status}: {text[:200]!r}")
        return answer.status, answer.headers.get("Location"), text


def _token(variable: str) -> str:
    if not (token := os.environ.get(variable)):
        raise ValueError(f"token_env: the environment variable {variable} is not set; export the token in it")
    return token
