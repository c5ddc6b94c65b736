"""POST to an OpenAI-compatible endpoint, for policies and for judges: tries, keys, and what may be shown."""

import asyncio
import os
from base64 import b64encode
from collections.abc import Mapping
from itertools import count
from typing import Any

import httpx

from ..sandboxes.backoff import backoff_s

MAX_BODY = 1 << 25
"""Bytes of an answer that are read: what is longer is no chat completion."""


class EndpointError(Exception):
    """No answer, after every try: infrastructure, and worth another try later."""


class EndpointRefused(EndpointError):
    """The request itself is wrong: another try gets the same answer."""

    is_retryable = False

    def __init__(self, problem: str, *, status: int) -> None:
        super().__init__(problem)
        self.status = status
        """Of HTTP."""


class ContextOverflow(EndpointRefused):
    """The conversation is longer than the model's context."""


class ChatEndpoint:
    """`POST {base_url}/chat/completions`, with tries. Holds no connection: the client is the caller's.

    `api_key_env` names the environment variable that holds the key, which is read for each request.
    `timeout_s`: of one try, to the last byte of the answer. `backoff_s`: pause before the second try, with
    jitter; it doubles from try to try.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key_env: str | None = None,
        timeout_s: float = 300.0,
        max_retries: int = 5,
        backoff_s: float = 1.0,
    ) -> None:
        """Raises `ValueError` for what is no URL, and for a key that is missing or that no header carries."""
        self.url, self._login = _without_login(f"{base_url.rstrip('/')}/chat/completions")
        """Where it posts, as it may be shown: without a password."""
        self._api_key_env = api_key_env
        self._timeout_s, self._max_retries, self._backoff_s = timeout_s, max_retries, backoff_s
        self._headers()  # is the key there?

    @staticmethod
    def client() -> httpx.AsyncClient:
        """A client without limits of its own, for one event loop."""
        return httpx.AsyncClient(timeout=None, limits=httpx.Limits(max_connections=None))

    async def post(self, client: httpx.AsyncClient, payload: Mapping[str, Any]) -> bytes:
        """The answer's body. Tries again after what may pass: a lost connection, a broken or busy server.

        Raises `EndpointError` after the last try, `EndpointRefused`, `ContextOverflow`.
        """
        for attempt in count():
            try:
                return await self._post(client, payload)
            except _TryAgain as again:
                if attempt == self._max_retries:
                    problem = f"{self.url} did not answer in {attempt + 1} tries; the last one: {again}"
                    raise EndpointError(problem) from again
                pause_s = backoff_s(self._backoff_s, attempt + 1, at_least_s=again.after_s)
            await asyncio.sleep(pause_s)
        raise AssertionError("count() does not end")

    async def _post(self, client: httpx.AsyncClient, payload: Mapping[str, Any]) -> bytes:
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                client.stream(
                    "POST", self.url, json=payload, headers=self._headers(), auth=self._login
                ) as response,
            ):
                body = await self._body(response)
        except TimeoutError as error:
            raise _TryAgain(f"no whole answer within {self._timeout_s:g} s") from error
        except httpx.RequestError as error:
            raise _TryAgain(self._without_secrets(f"{type(error).__name__}: {error}")) from error
        if response.is_success:
            return body
        text = self.beginning(body)
        problem = f"HTTP {response.status_code}: {text}"
        if response.status_code in (408, 429) or response.is_server_error:
            raise _TryAgain(problem, after_s=_seconds(response.headers.get("retry-after", "")))
        if response.status_code in (400, 413) and _is_about_context(body.decode(errors="replace")):
            raise ContextOverflow(f"{self.url}: {problem}", status=response.status_code)
        why = f"{self.url}: {problem}; look at the model's name, the key and the options"
        raise EndpointRefused(why, status=response.status_code)

    async def _body(self, response: httpx.Response) -> bytes:
        body = bytearray()
        async for piece in response.aiter_bytes():
            body += piece
            if len(body) > MAX_BODY:
                raise EndpointError(f"{self.url} answered with more than {MAX_BODY >> 20} MiB")
        return bytes(body)

    def _headers(self) -> dict[str, str]:
        if self._api_key_env is None:
            return {}
        if not (key := self._key()):
            raise ValueError(
                f"api_key_env={self._api_key_env!r}: that environment variable is not set; export the key"
            )
        if not (key.isascii() and key.isprintable()):
            raise ValueError(
                f"api_key_env={self._api_key_env!r}: that environment variable holds characters that no key "
                "has, such as a curly quote or a line break in its middle; export the key again"
            )
        return {"Authorization": f"Bearer {key}"}

    def _key(self) -> str:
        """Without the line break that many a file of keys leaves at its end."""
        return os.environ.get(self._api_key_env or "", "").strip()

    def beginning(self, body: bytes) -> str:
        """What a person reads of it."""
        return self._without_secrets(body.decode(errors="replace"))[:300]

    def _without_secrets(self, text: str) -> str:
        """What an endpoint says may repeat what it was sent. A key of three letters is none."""
        login = ":".join(self._login or ())
        for secret in (self._key(), b64encode(login.encode()).decode(), *(self._login or ())[1:]):
            if len(secret) > 3:
                text = text.replace(secret, "[redacted]")
        return text


def _without_login(url: str) -> tuple[str, tuple[str, str] | None]:
    """The URL as it may be shown, and (user, password) if they stood in it."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        # Not httpx's words: they show the part that it stumbled over, which may be one of a password.
        raise ValueError("base_url is no URL; percent-encode what stands before the host") from error
    if not parsed.userinfo:
        return url, None
    return str(parsed.copy_with(userinfo=b"")), (parsed.username, parsed.password)


def _is_about_context(text: str) -> bool:
    """OpenAI has a code for it, vLLM and others a sentence."""
    return "context_length_exceeded" in text or "maximum context length" in text


class _TryAgain(Exception):
    """What happened, and how long the endpoint wants to be left alone."""

    def __init__(self, problem: str, *, after_s: float = 0.0) -> None:
        super().__init__(problem)
        self.after_s = after_s


def _seconds(retry_after: str) -> float:
    """A number of seconds; 0 for the form with a date."""
    return float(retry_after) if retry_after.isdecimal() else 0.0
