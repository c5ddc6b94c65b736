"""vLLM over HTTP: token ids in, token ids and log-probabilities out, a LoRA adapter per policy version."""

import asyncio
import json
import os
import secrets
from collections.abc import Callable, Sequence
from typing import Any, Literal

import aiohttp
from yarl import URL

from ...sandboxes.backoff import backoff_s
from ..engine import Finish, Generation, PolicyVersion, Sampling, VersionSpan, WeightUpdate, policy_name
from ..errors import EngineError, EngineRefused

_NO_LOGPROB = -9999.0
"""vLLM's stand-in for NaN and minus infinity."""
_WORTH_ANOTHER_TRY = frozenset({408, 409, 425, 429})
"""Below 500; everything from there on is, too."""


class VllmEngine:
    """A client of one vLLM server, started by `VllmServer` or by somebody else with the same flags.

    engine = VllmEngine("http://127.0.0.1:8000", model="models/tiny", max_context=2048)
    answer = await engine.generate(ids, Sampling(max_tokens=64), policy=PolicyVersion(0), seed=1)

    Version 0 is the base model under the name `model`; version 12 is the adapter `policy-000012`, whose
    folder has to stay until it is retired, since vLLM may read it again. A whole model replaces the one
    before, and no other version is there any more. A server error, a full server and
    a broken connection are tried again: the seed makes it the same sample.
    """

    def __init__(
        self,
        base_url: str,
        *,
        model: str,
        api_key_env: str | None = None,
        max_context: int | None = None,
        tries: int = 4,
        backoff_s: float = 0.5,
        timeout_s: float = 600.0,
        obituary: Callable[[], str | None] = lambda: None,
    ) -> None:
        """`api_key_env`: name of the environment variable with the key. `timeout_s`: of one try.
        `backoff_s`: pause before the second try, with jitter; it doubles from try to try.
        `obituary`: what a server of our own has to say once it is gone.

        `max_context` None: `check` asks the server, and has to come first.
        """
        url = URL(base_url)
        if url.user is not None or url.password is not None:
            raise ValueError(
                "base_url has a password in it: name an environment variable in api_key_env instead"
            )
        self.max_context = max_context or 0
        self._model, self._tries, self._backoff_s = model, tries, backoff_s
        self._url, self._generate_url = url, url / "inference/v1/generate"
        self._headers = {"Content-Type": "application/json"} | _authorization(api_key_env)
        self._timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=10)
        self._obituary = obituary
        self._whole: PolicyVersion | None = None
        """The one version that is there, once a whole model has been published."""
        self._num_in_flight = 0
        self._open_session: aiohttp.ClientSession | None = None
        # A version's name and folder may come again, with other weights, in a resumed run on the same server.
        # vLLM's prefix cache would not notice: with a salt of our own we share it with ourselves only.
        self._salt = secrets.token_hex(8)

    async def check(self) -> None:
        """Is the server there, and does it serve the model? Raises `EngineError` with what is wrong."""
        served = await self._models()
        if self._model not in served:
            raise EngineRefused(f"{self._url} serves {list(served)}, not {self._model!r}")
        served_context = served[self._model].get("max_model_len")
        if served_context is None:
            raise EngineRefused(f"{self._url} does not say max_model_len as vLLM does: is it another server?")
        self.max_context = min(self.max_context or served_context, served_context)

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, *, policy: PolicyVersion, seed: int
    ) -> Generation:
        """Continue `prompt_ids`; the answer ends early where `max_context` does."""
        room = self.max_context - len(prompt_ids)
        if room < 1 or not prompt_ids:
            raise EngineRefused(f"prompt of {len(prompt_ids)} tokens: needs 1 .. {self.max_context - 1}")
        name = self._name(policy)
        body = {
            "model": name,
            "token_ids": list(prompt_ids),
            "sampling_params": {
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "max_tokens": min(sampling.max_tokens, room),
                "stop_token_ids": sampling.stop_ids,
                "ignore_eos": True,  # `stop_ids` alone says where an answer ends
                "seed": seed % 2**63,
                "logprobs": 0,
                "detokenize": False,
            },
            "cache_salt": self._salt,
        }
        self._num_in_flight += 1
        try:
            answer = await self._request("POST", self._generate_url, json.dumps(body).encode())
        finally:
            self._num_in_flight -= 1
        try:
            return _generation(answer, name, policy, None if self._whole is None else policy_name(policy))
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise EngineError(f"{self._generate_url}: unexpected answer ({error!r})") from error

    async def publish(self, update: WeightUpdate) -> PolicyVersion:
        """Load `update.adapter` under the version's name; requests in flight go on. Or put `update.model` in
        the place of the model that is there, while nothing is in flight."""
        if update.model is not None:
            return await self._replace(update.version, str(update.model.absolute()))
        if update.adapter is None:
            raise EngineRefused(f"version {update.version}: VllmEngine takes a folder, not a state")
        name = self._name(update.version)
        if name == self._model:
            raise EngineRefused("version 0 is the base model and cannot be published")
        # A server that outlived the last run may hold the name with that run's weights.
        if name in await self._models():
            await self.retire(update.version)
        try:
            await self._move("load", name, lora_path=str(update.adapter.absolute()))
        except EngineError as error:  # vLLM leaves some paths out of what it answers
            raise type(error)(f"adapter {update.adapter}: {error}") from error
        return update.version

    async def _replace(self, version: PolicyVersion, model: str) -> PolicyVersion:
        """New weights in the server's one model. It forgets what it has computed with the old ones."""
        if self._num_in_flight:
            raise EngineRefused(
                f"version {version}: a whole model cannot be published while {self._num_in_flight} requests "
                "are in flight, which would change their policy; wait for them, or train an adapter (`lora:`)"
            )
        load = {"method": "palaestra_load", "args": [model]}
        await self._request("POST", self._url / "pause" % {"mode": "wait"})  # also for those that we gave up
        await self._request("POST", self._url / "collective_rpc", json.dumps(load).encode())
        await self._request("POST", self._url / "reset_prefix_cache")
        named = json.dumps({"new_version": policy_name(version)}).encode()
        await self._request("POST", self._url / "update_weight_version", named)
        await self._request("POST", self._url / "resume")
        self._whole, self._salt = version, secrets.token_hex(8)
        return version

    async def retire(self, version: PolicyVersion) -> None:
        """Unload a version's adapter; the base model stays. Of whole models only the newest is there."""
        if self._whole is not None:
            return
        if (name := self._name(version)) != self._model:
            await self._move("unload", name)

    async def close(self) -> None:
        """Close the connections; the server is not ours."""
        if self._open_session is not None:
            await self._open_session.close()
            self._open_session = None

    def _name(self, version: PolicyVersion) -> str:
        if self._whole is not None and version != self._whole:
            raise EngineRefused(f"version {version} is gone: the server holds version {self._whole} alone")
        return self._model if version in (0, self._whole) else policy_name(version)

    async def _move(self, move: Literal["load", "unload"], name: str, **fields: str) -> None:
        """Load or unload an adapter."""
        body = json.dumps({"lora_name": name, **fields}).encode()
        try:
            await self._request("POST", self._url / f"v1/{move}_lora_adapter", body)
        except EngineRefused:  # perhaps only because an earlier try got through and its answer did not
            if (name in await self._models()) != (move == "load"):
                raise

    async def _models(self) -> dict[str, dict[str, Any]]:
        """What vLLM tells of the base model and each adapter, by name."""
        answer = await self._request("GET", self._url / "v1/models")
        try:
            return {card["id"]: card for card in json.loads(answer)["data"]}
        except (KeyError, TypeError, ValueError) as error:
            raise EngineRefused(f"{self._url}/v1/models is not a list of models: {answer[:200]!r}") from error

    async def _request(self, method: str, url: URL, body: bytes | None = None) -> bytes:
        """The answer's body, after as many tries as it takes."""
        for attempt in range(1, self._tries + 1):
            try:
                return await self._try(method, url, body)
            except EngineRefused:
                raise
            except EngineError:
                if attempt == self._tries:
                    raise
            await asyncio.sleep(backoff_s(self._backoff_s, attempt))
        raise AssertionError("unreachable")

    async def _try(self, method: str, url: URL, body: bytes | None) -> bytes:
        try:
            async with self._session().request(method, url, data=body, headers=self._headers) as response:
                answer = await response.read()
        except TimeoutError as error:
            raise EngineError(f"{url}: no answer within {self._timeout.total:.0f} s") from error
        except aiohttp.ClientError as error:
            raise EngineError(f"{url}: {self._obituary() or error}") from error
        if response.status == 200:
            return answer
        told = f"{url} answered {response.status}: {answer[:500].decode('utf-8', 'replace')}"
        if response.status >= 500 or response.status in _WORTH_ANOTHER_TRY:
            raise EngineError(told)
        raise EngineRefused(told)

    def _session(self) -> aiohttp.ClientSession:
        """Made on first use: it belongs to the event loop that runs then."""
        if self._open_session is None:
            self._open_session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),  # the collector limits what is in flight
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=self._timeout,
                auto_decompress=False,
                skip_auto_headers=("Accept-Encoding", "User-Agent"),
            )
        return self._open_session


def _generation(answer: bytes, name: str, policy: PolicyVersion, weights: str | None) -> Generation:
    """`weights`: what the server shall call those that it sampled with; None: whatever it likes."""
    told = json.loads(answer)
    choice = told["choices"][0]
    ids: tuple[int, ...] = tuple(choice["token_ids"])
    logprobs: tuple[float, ...] = tuple([token["logprob"] for token in choice["logprobs"]["content"]])
    if told.get("model", name) != name or len(choice.get("weight_versions") or ()) > 1:
        raise EngineError(f"asked for {name!r}, sampled by {told['model']!r} {choice['weight_versions']}")
    if weights is not None and [span["version"] for span in choice["weight_versions"]] != [weights]:
        raise EngineError(f"asked for the weights {weights}, sampled by {choice['weight_versions']}")
    if choice["finish_reason"] not in ("stop", "length"):
        raise EngineError(f"the server ended an answer with {choice['finish_reason']!r}")
    if len(ids) != len(logprobs) or not ids:
        raise EngineError(f"the server sent {len(ids)} tokens and {len(logprobs)} log-probabilities")
    if min(logprobs) <= _NO_LOGPROB:
        raise EngineError("the server sampled from a distribution with NaN in it (logprob -9999)")
    return Generation(
        ids=ids,
        logprobs=logprobs,
        versions=(VersionSpan(version=policy, start=0, end=len(ids)),),
        finish=Finish.STOP if choice["finish_reason"] == "stop" else Finish.LENGTH,
    )


def _authorization(api_key_env: str | None) -> dict[str, str]:
    if api_key_env is None:
        return {}
    if not (key := os.environ.get(api_key_env, "").strip()):
        raise ValueError(f"api_key_env={api_key_env!r}: the environment has no such variable, or it is empty")
    return {"Authorization": f"Bearer {key}"}
