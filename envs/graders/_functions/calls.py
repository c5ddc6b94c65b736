"""Where a reward function can run: the event goes in, the reply or an exception of `reply` comes out."""

import asyncio
import json
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from ....sandboxes import ExecResult, ExecStatus, SandboxSpec, open_sandbox
from ...reachable import refusal
from ...threads import in_thread
from ...worker import Worker
from .aws import aws_client
from .host import call_handler, load_handler
from .reply import RewardBusy, RewardFailed, failure, parse_json
from .sample import Sample
from .workers import Workers, too_slow

HOST = Path(__file__).with_name("host.py")
MAX_REPLY = 1 << 22
"""Bytes of a reply that are read."""
START_S = 5.0
"""What an interpreter may take to start, beside the function's own time."""


class Call(Protocol):
    """One invocation."""

    async def __call__(self, event: Sequence[Sample]) -> object: ...

    async def check(self) -> None:
        """Raise what can be known before the first call."""
        ...


class InWorker:
    """A Python file, in a process that is killed when its time is over."""

    def __init__(self, path: Path, name: str, *, concurrency: int, timeout_s: float) -> None:
        self._words, self._timeout_s = (str(path), name), timeout_s
        self._workers = Workers(path.name, self._load, most=concurrency, timeout_s=timeout_s)

    async def __call__(self, event: Sequence[Sample]) -> object:
        text = json.dumps(event)
        return _said(await self._workers.call(call_handler, *self._words, text, self._timeout_s))

    async def check(self) -> None:
        """Raise `RewardFailed` where the file has no such function, or breaks when it is loaded."""
        is_there, why = await self._workers.call(load_handler, *self._words)
        if not is_there:
            raise RewardFailed(why)

    async def _load(self, worker: Worker) -> None:
        await worker.call(load_handler, *self._words)  # what is wrong with it, the call tells


@dataclass(frozen=True, kw_only=True, slots=True)
class InSandbox:
    """A Python file in a sandbox of its own for each call, with the modules that stand beside it."""

    path: Path
    name: str
    timeout_s: float
    spec: SandboxSpec = field(default_factory=SandboxSpec)

    async def __call__(self, event: Sequence[Sample]) -> object:
        nonce = secrets.token_hex(8)
        words = (self.path.name, self.name, f"{self.timeout_s}", nonce)
        async with open_sandbox(self.spec) as box:
            for file in self.path.parent.glob("*.py"):
                await box.write(file.name, file.read_bytes())
            result = await box.run(
                ["python3", "-c", HOST.read_text(encoding="utf-8"), *words],
                stdin=json.dumps(event).encode(),
                timeout_s=self.timeout_s + START_S,
                output_limit=MAX_REPLY,
            )
        return _said(self._answer(result, nonce))

    async def check(self) -> None:
        """Raise `SandboxUnavailable` where there is no such sandbox."""
        async with open_sandbox(self.spec):
            pass

    def _answer(self, result: ExecResult, nonce: str) -> tuple[bool, str]:
        if result.status is ExecStatus.TIMEOUT:
            more = f" and the {START_S:g} s that its sandbox gets to start it"
            raise too_slow(self.path.name, self.timeout_s, more)
        _, found, line = result.stdout.decode(errors="replace").rpartition(nonce)
        if not found or result.omitted_stdout:
            end = result.stderr.decode(errors="replace").strip()[-300:]
            raise RewardFailed(
                f"{self.path.name} ended in its sandbox without a reply: {result.status}: {end}"
            )
        ok, text = json.loads(line)
        return ok, text


@dataclass(frozen=True, kw_only=True, slots=True)
class OverHttp:
    """`POST url` with the event as JSON, as a function URL or an API gateway takes it."""

    url: str
    timeout_s: float
    api_key_env: str | None = None
    """Environment variable with a bearer token."""

    async def __call__(self, event: Sequence[Sample]) -> object:
        import httpx  # 0.2 s that `import palaestra.envs` does not pay

        try:
            async with (
                asyncio.timeout(self.timeout_s),
                httpx.AsyncClient(timeout=None, verify=_tls()) as client,
                client.stream("POST", self.url, json=event, headers=self._headers()) as response,
            ):
                body = bytearray()
                async for piece in response.aiter_bytes():
                    body += piece
                    if len(body) > MAX_REPLY:
                        raise RewardFailed(f"{self._host} answered with more than {MAX_REPLY >> 20} MiB")
        except TimeoutError as error:
            raise too_slow(self._host, self.timeout_s) from error
        except httpx.ConnectError as error:  # nothing was sent
            raise RewardBusy(f"{self._host} cannot be reached: {error}") from error
        except (httpx.RequestError, httpx.InvalidURL) as error:
            raise RewardFailed(f"{self._host}: {type(error).__name__}: {error}") from error
        if not response.is_success:
            said = bytes(body[:300]).decode(errors="replace")
            problem = failure(str(response.status_code), f"{self._host}: HTTP {response.status_code}: {said}")
            if isinstance(problem, RewardBusy):
                problem.after_s = _seconds(response.headers.get("retry-after", ""))
            raise problem
        return parse_json(bytes(body))

    async def check(self) -> None:
        """Raise `RewardFailed` where nobody is at the URL."""
        await _require_server(self.url)

    def _headers(self) -> dict[str, str]:
        if self.api_key_env is None:
            return {}
        key = os.environ.get(self.api_key_env, "").strip()
        if not key:
            raise RewardFailed(
                f"api_key_env={self.api_key_env!r}: that environment variable is not set; export the key"
            )
        return {"Authorization": f"Bearer {key}"}

    @property
    def _host(self) -> str:
        """The URL as it may be shown: a password or a token may be in the rest."""
        return self.url.partition("?")[0].rpartition("@")[2]


class OnLambda:
    """`Invoke` on AWS Lambda, with the credentials and the region that boto3 finds."""

    def __init__(self, function: str, *, timeout_s: float, endpoint_url: str | None = None) -> None:
        """`function`: an ARN, or a name. Raises `ValueError` where boto3 finds no region."""
        self._client = aws_client("lambda", timeout_s=timeout_s, function=function, endpoint_url=endpoint_url)
        self._errors: Any = import_module("botocore.exceptions")
        self._function, self._timeout_s, self._endpoint_url = function, timeout_s, endpoint_url

    async def __call__(self, event: Sequence[Sample]) -> object:
        payload = json.dumps(event).encode()
        return await in_thread(lambda: self._invoke(payload))

    async def check(self) -> None:
        """Raise `RewardFailed` where nobody is at `endpoint_url`."""
        if self._endpoint_url is not None:
            await _require_server(self._endpoint_url)

    def _invoke(self, payload: bytes) -> object:
        errors = self._errors
        try:
            answer = self._client.invoke(FunctionName=self._function, Payload=payload)
            body: bytes = answer["Payload"].read()
        except errors.ClientError as error:
            status = str(error.response["ResponseMetadata"].get("HTTPStatusCode", ""))
            raise failure(status, f"{self._function}: {error}") from error
        except errors.ReadTimeoutError as error:
            raise too_slow(self._function, self._timeout_s) from error
        except (errors.EndpointConnectionError, errors.ConnectTimeoutError) as error:
            raise RewardBusy(str(error)) from error
        except (errors.BotoCoreError, errors.HTTPClientError) as error:
            raise RewardFailed(f"{self._function}: {type(error).__name__}: {error}") from error
        if "FunctionError" in answer:
            said = body[:500].decode(errors="replace")
            raise RewardFailed(f"{self._function} failed ({answer['FunctionError']}): {said}")
        return parse_json(body)


async def _require_server(url: str) -> None:
    if (why := await refusal(url)) is not None:
        raise RewardFailed(f"{why}; start the server there, or mend the URL")


def _said(done: tuple[bool, str]) -> object:
    ok, text = done
    if not ok:
        raise RewardFailed(text)
    return parse_json(text)


def _seconds(retry_after: str) -> float:
    return float(retry_after) if retry_after.isdecimal() else 0.0


@cache
def _tls() -> Any:
    """Reading the certificates takes longer than a call."""
    import httpx

    return httpx.create_ssl_context()
