"""Any OpenAI-compatible endpoint as a policy: for evaluation, since it gives messages and no tokens."""

import json
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from ..envs import AssistantMessage, Message, OutOfBudget, StopReason, ToolSpec
from ..envs.endpoint import ChatEndpoint, ContextOverflow, EndpointError, EndpointRefused
from .chat_reply import read_reply
from .errors import EngineError, EngineRefused
from .formats import Hermes, ToolFormat
from .policy import turn_seed
from .rows import to_rows
from .template import Row


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
        self._endpoint = ChatEndpoint(
            base_url,
            api_key_env=api_key_env,
            timeout_s=timeout_s,
            max_retries=max_retries,
            backoff_s=backoff_s,
        )
        self._fixed = {"model": model, **(options or {})}
        self._seed = seed
        self._format, self._rows_format = format, format or Hermes()
        self._client = self._endpoint.client()

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
        body = await self._post(self._payload(messages, tools))
        first_call = sum(len(said.tool_calls) for said in messages if isinstance(said, AssistantMessage))
        try:
            return read_reply(body, tools, self._format, first_call=first_call)
        except (ValueError, RecursionError) as error:
            problem = f"{self._endpoint.url} answered what is no chat completion: {error}"
            raise EngineError(f"{problem}; it begins with {self._endpoint.beginning(body)!r}") from error

    def _payload(self, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> dict[str, Any]:
        payload: dict[str, Any] = dict(self._fixed)
        payload["messages"] = [_wire(row) for row in to_rows(messages, tools, self._rows_format)]
        if tools and self._rows_format.is_native:
            payload["tools"] = [tool.to_openai() for tool in tools]
        if self._seed is not None:
            turn = sum(isinstance(message, AssistantMessage) for message in messages)
            payload["seed"] = turn_seed(self._seed, turn)
        return payload

    async def _post(self, payload: Mapping[str, Any]) -> bytes:
        try:
            return await self._endpoint.post(self._client, payload)
        except ContextOverflow as error:
            raise OutOfBudget(StopReason.CONTEXT) from error
        except EndpointRefused as error:
            raise EngineRefused(str(error)) from error
        except EndpointError as error:
            raise EngineError(str(error)) from error


def _wire(row: Row) -> Row:
    """What endpoints take: arguments as JSON text, and no thoughts, which some refuse."""
    row = {key: value for key, value in row.items() if key not in ("reasoning_content", "name")}
    if "tool_calls" in row:
        row["tool_calls"] = [
            {**call, "function": {**call["function"], "arguments": json.dumps(call["function"]["arguments"])}}
            for call in row["tool_calls"]
        ]
    return row
