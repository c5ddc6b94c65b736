"""The model behind a judge: asked through any OpenAI-compatible endpoint, a few questions at a time."""

import asyncio
import json
import threading
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar
from weakref import WeakKeyDictionary

import httpx
from pydantic import BaseModel, ConfigDict, Field

from ...endpoint import ChatEndpoint, ContextOverflow, EndpointError, EndpointRefused
from ...threads import in_thread
from .brief import Brief, Unclear
from .cache import VerdictCache

T = TypeVar("T")
MAX_LOOKS = 8
"""Into the cache at one time."""
Structured = Literal["auto", "response_format", "guided_json", "off"]


class JudgeError(Exception):
    """The judge could not tell: there is no number."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Price:
    """Of a million tokens, in the currency of your bill."""

    prompt: float = 0.0
    sampled: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Spent:
    """What a model was asked, and what that cost."""

    num_asked: int = 0
    """Replies that came, the unclear ones included."""
    num_cached: int = 0
    """Verdicts that were known already."""
    num_unclear: int = 0
    """Replies that were no verdict."""
    prompt_tokens: int = 0
    sampled_tokens: int = 0
    price: Price = field(default_factory=Price)

    @property
    def cost(self) -> float:
        """
        >>> Spent(prompt_tokens=2000, sampled_tokens=500, price=Price(prompt=1.0, sampled=4.0)).cost
        0.004
        """
        return (self.prompt_tokens * self.price.prompt + self.sampled_tokens * self.price.sampled) / 1e6


class _Said(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Said
    finish_reason: str | None = None


class _Usage(BaseModel):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Reply(BaseModel):
    model_config = ConfigDict(hide_input_in_errors=True)  # an endpoint may repeat a key that it was sent

    choices: list[_Choice] = Field(min_length=1)
    usage: _Usage | None = None


@dataclass(slots=True)
class _Line:
    """To the endpoint, in one event loop. Open while somebody uses it: a judge has nobody to close it."""

    free: asyncio.Semaphore
    looks: asyncio.Semaphore
    """Into the cache: each takes a thread."""
    users: int = 0
    client: httpx.AsyncClient | None = None


class JudgeModel:
    """A model that judges. One may serve many graders, episodes and event loops.

    >>> model = JudgeModel("http://127.0.0.1:8000/v1", "qwen", cache=VerdictCache("verdicts.sqlite"))
    >>> model.spent.num_asked
    0
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key_env: str | None = None,
        options: Mapping[str, Any] | None = None,
        structured: Structured = "auto",
        max_concurrent: int = 16,
        max_asks: int = 3,
        cache: VerdictCache | None = None,
        price: Price | None = None,
        timeout_s: float = 60.0,
        max_retries: int = 3,
        backoff_s: float = 1.0,
    ) -> None:
        """`options` goes into each request, {"temperature": 0.0, "max_tokens": 1024} by default.

        `structured`: how the endpoint is asked to keep the verdict's schema; "auto" tries `response_format`
        and goes without where that is refused. `max_asks`: how often one question is asked while the reply is
        no verdict. The rest is as in `ChatEndpoint`.
        """
        if max_concurrent < 1 or max_asks < 1:
            raise ValueError(f"max_concurrent={max_concurrent}, max_asks={max_asks}: both must be 1 or more")
        self._endpoint = ChatEndpoint(
            base_url,
            api_key_env=api_key_env,
            timeout_s=timeout_s,
            max_retries=max_retries,
            backoff_s=backoff_s,
        )
        self.options = {"temperature": 0.0, "max_tokens": 1024} if options is None else dict(options)
        self.spent = Spent(price=price or Price())
        self._counting = threading.Lock()  # event loops may run in threads of their own
        self._model, self._structured, self._cache = model, structured, cache
        self._is_structured = structured != "off"
        self._max_concurrent, self._max_asks = max_concurrent, max_asks
        self._lines: WeakKeyDictionary[asyncio.AbstractEventLoop, _Line] = WeakKeyDictionary()

    async def ask(self, brief: Brief, *, vote: int | None = None) -> Mapping[str, Any]:
        """The verdict's fields. `vote`: number of one of several samples, which is its seed too.

        Raises `JudgeError` when no reply was a verdict, `EndpointError` when none came.
        """
        key = json.dumps([self._endpoint.url, self._model, self.options, brief.key, vote], sort_keys=True)
        if (known := await self._known(key)) is not None:
            self._count(num_cached=1)
            verdict: Mapping[str, Any] = json.loads(known)
            return verdict
        async with self._line() as client:
            found = await self._until_clear(client, brief, vote)
        if (cache := self._cache) is not None:
            await self._cached(lambda: cache.put(key, json.dumps(found)))
        return found

    async def _known(self, key: str) -> str | None:
        if (cache := self._cache) is None:
            return None
        return await self._cached(lambda: cache.get(key))

    async def _cached(self, use: Callable[[], T]) -> T:
        """Beside the event loop: another run may hold the cache's file for seconds."""
        async with self._here().looks:
            return await in_thread(use)

    def without_cache(self) -> "JudgeModel":
        """The same model, asked each time anew; it counts for itself."""
        twin = object.__new__(JudgeModel)
        vars(twin).update(vars(self), spent=Spent(price=self.spent.price), _cache=None)
        return twin

    async def _until_clear(
        self, client: httpx.AsyncClient, brief: Brief, vote: int | None
    ) -> Mapping[str, Any]:
        """Asks with a new mark each time, until the reply is a verdict."""
        problem = ""
        for _ in range(self._max_asks):
            mark, messages = brief.fenced()
            payload = {"model": self._model, **self.options, "messages": messages}
            if vote is not None:
                payload["seed"] = vote
            try:
                return brief.read(self._content(await self._post(client, payload, brief)), mark)
            except Unclear as unclear:
                self._count(num_unclear=1)
                problem = str(unclear)
            except asyncio.CancelledError as error:
                error.add_note(f"asking the judge {self._model} at {self._endpoint.url}")
                raise
        raise JudgeError(
            f"{self._model} at {self._endpoint.url} gave no verdict in {self._max_asks} replies; the last: "
            f"{problem}; use a stronger judge, a simpler question, or an endpoint that keeps a JSON schema"
        )

    async def _post(self, client: httpx.AsyncClient, payload: Mapping[str, Any], brief: Brief) -> bytes:
        if not self._is_structured:
            return await self._endpoint.post(client, payload)
        try:
            return await self._endpoint.post(client, {**payload, **self._constraint(brief)})
        except ContextOverflow:
            raise
        except EndpointRefused as refused:
            if self._structured != "auto" or refused.status not in (400, 404, 422):
                raise
        # Perhaps it was the schema that it refused: that it takes the same without one says so.
        body = await self._endpoint.post(client, payload)
        self._is_structured = False
        return body

    def _constraint(self, brief: Brief) -> dict[str, Any]:
        if self._structured == "guided_json":
            return {"guided_json": brief.schema}
        form = {"name": "verdict", "strict": True, "schema": brief.schema}
        return {"response_format": {"type": "json_schema", "json_schema": form}}

    def _content(self, body: bytes) -> str:
        """What the model said. Raises `Unclear` for half a reply, `EndpointError` for none."""
        try:
            # Not model_validate_json: it refuses halves of surrogate pairs, and models sample them.
            reply = _Reply.model_validate(json.loads(body))
        except (ValueError, RecursionError) as error:
            problem = f"{self._endpoint.url} answered what is no chat completion: {error}"
            begins = self._endpoint.beginning(body)
            raise EndpointError(f"{problem}; it begins with {begins!r}") from error
        usage = reply.usage or _Usage()
        self._count(
            num_asked=1,
            prompt_tokens=max(0, usage.prompt_tokens or 0),
            sampled_tokens=max(0, usage.completion_tokens or 0),
        )
        choice = reply.choices[0]
        if choice.finish_reason == "length":
            raise Unclear("it was cut by its length; give a larger max_tokens in options")
        return choice.message.content or ""

    def _count(self, **more: int) -> None:
        with self._counting:
            sums = {name: getattr(self.spent, name) + n for name, n in more.items()}
            self.spent = replace(self.spent, **sums)

    @asynccontextmanager
    async def _line(self) -> AsyncGenerator[httpx.AsyncClient, None]:
        """A client of this event loop, shared by those who ask at the same time and closed by the last."""
        line = self._here()
        async with line.free:
            line.users += 1
            line.client = client = line.client or self._endpoint.client()
            try:
                yield client
            finally:
                line.users -= 1
                if not line.users:
                    line.client = None
                    await client.aclose()

    def _here(self) -> _Line:
        """What belongs to this event loop."""
        loop = asyncio.get_running_loop()
        line = _Line(asyncio.Semaphore(self._max_concurrent), asyncio.Semaphore(MAX_LOOKS))
        return self._lines.setdefault(loop, line)
