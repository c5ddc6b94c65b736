"""Any OpenAI-compatible endpoint as a policy: for evaluation, since it gives messages and no tokens."""

import asyncio
import json
import os
from base64 import b64encode
from collections.abc import Mapping, Sequence
from itertools import count
from types import TracebackType
from typing import Any, Self

import httpx

from ..envs import AssistantMessage, Message, OutOfBudget, StopReason, ToolSpec
from ..envs.backoff import backoff_s
from .chat_reply import read_reply
from .errors import EngineError, EngineRefused
from .formats import Hermes, ToolFormat
from .policy import turn_seed
from .rows import to_rows
from .template import Row

MAX_BODY = 1 << 25
"""Bytes of an answer that are read: what is longer is no chat completion."""


class ChatPolicy:
    """Asks `POST {base_url}/chat/completions`. It keeps nothing of an episode: one serves many at once.

    >>> policy = ChatPolicy("http://localhost:8000/v1", "qwen")   # doctest: +SKIP

    With a `format`, calls are also looked for in the text, and one that is not native shows the tools there
    too; without one, they go through the endpoint's own `tools`.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key_env: str | None = None,
        format: ToolFormat | None = None,
        seed: int | None = None,
        options: Mapping[str, Any] | None = None,
        timeout_s: float = 300.0,
        max_retries: int = 5,
        backoff_s: float = 1.0,
    ) -> None:
        """`options` goes into each request: temperature, max_tokens and what else the endpoint knows.

        `api_key_env` names the environment variable that holds the key, which is read for each request.
        `timeout_s`: of one try, to the last byte of the answer. `backoff_s`: pause before the second try,
        with jitter; it doubles from try to try.
        """
        self._url, self._login = _without_login(f"{base_url.rstrip('/')}/chat/completions")
        self._fixed = {"model": model, **(options or {})}
        self._api_key_env, self._seed = api_key_env, seed
        self._format, self._rows_format = format, format or Hermes()
        self._timeout_s, self._max_retries, self._backoff_s = timeout_s, max_retries, backoff_s
        self._headers()  # is the key there?
        self._client = httpx.AsyncClient(timeout=None, limits=httpx.Limits(max_connections=None))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def __call__(self, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> AssistantMessage:
        """The next answer. Raises `EngineError` after the last try, `EngineRefused`, `OutOfBudget`."""
        body = await self._post_with_retries(self._payload(messages, tools))
        first_call = sum(len(said.tool_calls) for said in messages if isinstance(said, AssistantMessage))
        try:
            return read_reply(body, tools, self._format, first_call=first_call)
        except (ValueError, RecursionError) as error:
            problem = f"{self._url} answered what is no chat completion: {error}"
            raise EngineError(f"{problem}; it begins with {self._beginning(body)!r}") from error

    def _payload(self, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> dict[str, Any]:
        payload: dict[str, Any] = dict(self._fixed)
        payload["messages"] = [_wire(row) for row in to_rows(messages, tools, self._rows_format)]
        if tools and self._rows_format.is_native:
            payload["tools"] = [tool.to_openai() for tool in tools]
        if self._seed is not None:
            turn = sum(isinstance(message, AssistantMessage) for message in messages)
            payload["seed"] = turn_seed(self._seed, turn)
        return payload

    async def _post_with_retries(self, payload: Mapping[str, Any]) -> bytes:
        """The answer's body. Tries again after what may pass: a lost connection, a broken or busy server."""
        for attempt in count():
            try:
                return await self._post(payload)
            except _TryAgain as again:
                if attempt == self._max_retries:
                    problem = f"{self._url} did not answer in {attempt + 1} tries; the last one: {again}"
                    raise EngineError(problem) from again
                pause_s = backoff_s(self._backoff_s, attempt + 1, at_least_s=again.after_s)
            await asyncio.sleep(pause_s)
        raise AssertionError("count() does not end")

    async def _post(self, payload: Mapping[str, Any]) -> bytes:
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._client.stream(
                    "POST", self._url, json=payload, headers=self._headers(), auth=self._login
                ) as response,
            ):
                body = await self._body(response)
        except TimeoutError as error:
            raise _TryAgain(f"no whole answer within {self._timeout_s:g} s") from error
        except httpx.RequestError as error:
            raise _TryAgain(self._without_secrets(f"{type(error).__name__}: {error}")) from error
        if response.is_success:
            return body
        text = self._beginning(body)
        problem = f"HTTP {response.status_code}: {text}"
        if response.status_code in (408, 429) or response.is_server_error:
            raise _TryAgain(problem, after_s=_seconds(response.headers.get("retry-after", "")))
        if response.status_code in (400, 413) and _is_about_context(body.decode(errors="replace")):
            raise OutOfBudget(StopReason.CONTEXT)
        raise EngineRefused(f"{self._url}: {problem}; look at the model's name, the key and the options")

    async def _body(self, response: httpx.Response) -> bytes:
        body = bytearray()
        async for piece in response.aiter_bytes():
            body += piece
            if len(body) > MAX_BODY:
                raise EngineError(f"{self._url} answered with more than {MAX_BODY >> 20} MiB")
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

    def _beginning(self, body: bytes) -> str:
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


def _wire(row: Row) -> Row:
    """What endpoints take: arguments as JSON text, and no thoughts, which some refuse."""
    row = {key: value for key, value in row.items() if key not in ("reasoning_content", "name")}
    if "tool_calls" in row:
        row["tool_calls"] = [
            {**call, "function": {**call["function"], "arguments": json.dumps(call["function"]["arguments"])}}
            for call in row["tool_calls"]
        ]
    return row


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
