"""Any OpenAI-compatible endpoint as a policy: for evaluation, since it gives messages and no tokens."""

import asyncio
import json
import os
import random
from collections.abc import Mapping, Sequence
from itertools import count
from types import TracebackType
from typing import Annotated, Any, Self

import httpx
from pydantic import AfterValidator, BaseModel, Field

from ..envs import AssistantMessage, Message, OutOfBudget, StopReason, ToolCall, ToolSpec
from ..envs.message import BadToolCall, Usage, utf8
from .errors import EngineError, EngineRefused
from .formats import Hermes, Malformed, ToolFormat, json_object
from .policy import turn_seed
from .rows import to_rows
from .template import Row

MAX_DELAY_S = 30.0
"""Between two tries, also when the endpoint asks for more."""


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
        """
        if api_key_env is not None and not os.environ.get(api_key_env):
            raise ValueError(
                f"api_key_env={api_key_env!r}: that environment variable is not set; export the key"
            )
        self._url = f"{base_url.rstrip('/')}/chat/completions"
        self._fixed = {"model": model, **(options or {})}
        self._api_key_env, self._seed = api_key_env, seed
        self._format, self._rows_format = format, format or Hermes()
        self._max_retries, self._backoff_s = max_retries, backoff_s
        self._client = httpx.AsyncClient(timeout=timeout_s, limits=httpx.Limits(max_connections=None))

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
        response = await self._post_with_retries(self._payload(messages, tools))
        try:
            # Not model_validate_json: it refuses halves of surrogate pairs, and models sample them.
            reply = _Reply.model_validate(json.loads(response.content))
        except (ValueError, RecursionError) as error:
            raise EngineError(f"{self._url} answered what is no chat completion: {error}") from error
        return self._read(reply, tools)

    def _payload(self, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> dict[str, Any]:
        payload: dict[str, Any] = dict(self._fixed)
        payload["messages"] = [_wire(row) for row in to_rows(messages, tools, self._rows_format)]
        if tools and self._rows_format.is_native:
            payload["tools"] = [tool.to_openai() for tool in tools]
        if self._seed is not None:
            turn = sum(isinstance(message, AssistantMessage) for message in messages)
            payload["seed"] = turn_seed(self._seed, turn)
        return payload

    async def _post_with_retries(self, payload: Mapping[str, Any]) -> httpx.Response:
        """Tries again after what may pass: a lost connection, a full queue, a broken server."""
        for attempt in count():
            try:
                return await self._post(payload)
            except _TryAgain as again:
                if attempt == self._max_retries:
                    problem = f"{self._url} did not answer in {attempt + 1} tries; the last one: {again}"
                    raise EngineError(problem) from again
                delay_s = max(self._backoff_s * 2**attempt * random.uniform(0.5, 1.0), again.after_s)
            await asyncio.sleep(min(delay_s, MAX_DELAY_S))
        raise AssertionError("count() does not end")

    async def _post(self, payload: Mapping[str, Any]) -> httpx.Response:
        try:
            response = await self._client.post(self._url, json=payload, headers=self._headers())
        except httpx.TransportError as error:
            raise _TryAgain(f"{type(error).__name__}: {error}") from error
        if response.is_success:
            return response
        problem = f"HTTP {response.status_code}: {response.text[:300]}"
        if response.status_code in (408, 429) or response.is_server_error:
            raise _TryAgain(problem, after_s=_seconds(response.headers.get("retry-after", "")))
        if response.status_code in (400, 413) and _is_about_context(response.text):
            raise OutOfBudget(StopReason.CONTEXT)
        raise EngineRefused(f"{self._url}: {problem}; look at the model's name, the key and the options")

    def _headers(self) -> dict[str, str]:
        return (
            {} if self._api_key_env is None else {"Authorization": f"Bearer {os.environ[self._api_key_env]}"}
        )

    def _read(self, reply: "_Reply", tools: Sequence[ToolSpec]) -> AssistantMessage:
        choice = reply.choices[0]
        said = choice.message
        content, calls, bad = said.content or "", list[ToolCall](), list[BadToolCall]()
        for call in said.tool_calls or ():
            try:
                arguments = json_object(call.function.arguments or "{}")
                calls.append(ToolCall(id=call.id, name=call.function.name, arguments=arguments))
            except Malformed as error:
                bad.append(BadToolCall(text=utf8(call.function.arguments), error=str(error)))
        if self._format is not None and not said.tool_calls:
            parsed = self._format.parse(content, tools)
            content, calls, bad = parsed.content, list(parsed.tool_calls), list(parsed.bad_calls)
        counted = reply.usage or _Usage()
        usage = Usage(
            prompt_tokens=counted.prompt_tokens,
            sampled_tokens=counted.completion_tokens,
            finish="length" if choice.finish_reason == "length" else "stop",
        )
        reasoning = said.reasoning_content or said.reasoning or ""
        return AssistantMessage(content, reasoning, tuple(calls), tuple(bad), usage)


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


_Text = Annotated[str, AfterValidator(utf8)]


class _Function(BaseModel):
    name: _Text
    arguments: str = ""
    """As it came: what has no UTF-8 form makes a bad call, not another call."""


class _Call(BaseModel):
    id: _Text
    function: _Function


class _Said(BaseModel):
    content: _Text | None = None
    reasoning_content: _Text | None = None
    reasoning: _Text | None = None
    tool_calls: list[_Call] | None = None


class _Choice(BaseModel):
    message: _Said
    finish_reason: str | None = None


class _Usage(BaseModel):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Reply(BaseModel):
    choices: list[_Choice] = Field(min_length=1)
    usage: _Usage | None = None
