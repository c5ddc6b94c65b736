"""The vLLM client against a server that misbehaves on purpose."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from support import run_async

from palaestra.agents.canary import expect_processed_logprobs
from palaestra.agents.engine import Finish, PolicyVersion, Sampling, VersionSpan, WeightUpdate
from palaestra.agents.engines.vllm import VllmEngine
from palaestra.agents.errors import EngineError, EngineRefused

V0, V3 = PolicyVersion(0), PolicyVersion(3)
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def said(request: web.Request, **changes: Any) -> web.Response:
    """What vLLM answers."""
    body = await request.json()
    ids = [11, 12, 13]
    choice: dict[str, Any] = {
        "index": 0,
        "token_ids": ids,
        "logprobs": {"content": [{"token_id": id, "logprob": -0.5, "top_logprobs": []} for id in ids]},
        "finish_reason": "stop",
        "weight_versions": [{"version": "default", "start": 0, "end": 3}],
    }
    return web.json_response({"model": body["model"], "choices": [choice | changes]})


class Server:
    """Answers with each of `answers` in turn, with the last one from then on."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.bodies = list[dict[str, Any]]()
        self.headers = list[dict[str, str]]()
        self.loaded = list[str]()
        self.loses_answers = False
        """An adapter is moved, and the connection breaks before the answer."""
        self.told: Any = None
        """What /v1/models answers in vLLM's place."""

    async def generate(self, request: web.Request) -> web.StreamResponse:
        self.bodies.append(await request.json())
        self.headers.append(dict(request.headers))
        answer = self.answers[0] if len(self.answers) == 1 else self.answers.pop(0)
        return await answer(request)

    async def models(self, request: web.Request) -> web.Response:
        cards = [{"id": name, "max_model_len": 64} for name in ("base", *self.loaded)]
        return web.json_response(self.told or {"data": cards})

    async def load(self, request: web.Request) -> web.StreamResponse:
        name = (await request.json())["lora_name"]
        if name in self.loaded:
            return web.json_response({"error": {"message": "has already been loaded"}}, status=400)
        self.loaded.append(name)
        return await self.moved(request)

    async def unload(self, request: web.Request) -> web.StreamResponse:
        name = (await request.json())["lora_name"]
        if name not in self.loaded:
            return web.json_response({"error": {"message": "cannot be found"}}, status=404)
        self.loaded.remove(name)
        return await self.moved(request)

    async def moved(self, request: web.Request) -> web.StreamResponse:
        return await hang_up(request) if self.loses_answers else web.Response()

    @asynccontextmanager
    async def engine(self, **options: Any) -> AsyncGenerator[VllmEngine, None]:
        app = web.Application()
        app.router.add_post("/inference/v1/generate", self.generate)
        app.router.add_get("/v1/models", self.models)
        app.router.add_post("/v1/load_lora_adapter", self.load)
        app.router.add_post("/v1/unload_lora_adapter", self.unload)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        chosen: dict[str, Any] = {"model": "base", "max_context": 64, "backoff_s": 0.001} | options
        engine = VllmEngine(f"http://127.0.0.1:{port}", **chosen)
        try:
            yield engine
        finally:
            await engine.close()
            await runner.cleanup()


async def good(request: web.Request) -> web.StreamResponse:
    return await said(request)


def status(code: int) -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(status=code, text=f"no: {code}")

    return answer


async def hang_up(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


def with_choice(**changes: Any) -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        return await said(request, **changes)

    return answer


def test_it_keeps_tokens_and_logprobs_and_asks_for_the_seed() -> None:
    async def main() -> None:
        server = Server(good)
        async with server.engine() as engine:
            sampling = Sampling(temperature=0.7, max_tokens=20, stop_ids=(13,))
            answer = await engine.generate([1, 2], sampling, policy=V3, seed=9)
        assert (answer.ids, answer.logprobs) == ((11, 12, 13), (-0.5, -0.5, -0.5))
        assert (answer.finish, answer.versions) == (Finish.STOP, (VersionSpan(version=V3, start=0, end=3),))
        (body,) = server.bodies
        assert (body["token_ids"], body["model"]) == ([1, 2], "policy-000003")
        asked = body["sampling_params"]
        assert (asked["seed"], asked["temperature"], asked["max_tokens"]) == (9, 0.7, 20)
        assert (asked["stop_token_ids"], asked["ignore_eos"]) == ([13], True)

    run_async(main())


@pytest.mark.parametrize("fault", [status(500), status(503), status(429), hang_up])
def test_weather_is_tried_again_as_the_same_sample(fault: Answer) -> None:
    async def main() -> None:
        server = Server(fault, fault, good)
        async with server.engine() as engine:
            answer = await engine.generate([1], Sampling(), policy=V0, seed=5)
        assert answer.ids == (11, 12, 13)
        assert len(server.bodies) == 3
        assert all(body == server.bodies[0] for body in server.bodies)

    run_async(main())


def test_after_the_last_try_it_is_an_engine_error() -> None:
    async def main() -> None:
        server = Server(status(503))
        async with server.engine(tries=3) as engine:
            with pytest.raises(EngineError, match="503: no: 503") as caught:
                await engine.generate([1], Sampling(), policy=V0, seed=5)
        assert not isinstance(caught.value, EngineRefused)
        assert len(server.bodies) == 3

    run_async(main())


def test_a_wrong_request_is_refused_at_once() -> None:
    async def main() -> None:
        server = Server(status(404))
        async with server.engine() as engine:
            with pytest.raises(EngineRefused, match="404"):
                await engine.generate([1], Sampling(), policy=V3, seed=5)
            assert len(server.bodies) == 1
            with pytest.raises(EngineRefused, match="prompt of 64 tokens"):
                await engine.generate([1] * 64, Sampling(), policy=V0, seed=5)
            assert len(server.bodies) == 1

    run_async(main())


def test_an_answer_never_grows_over_the_context() -> None:
    async def main() -> None:
        server = Server(good)
        async with server.engine() as engine:
            await engine.generate([1] * 60, Sampling(max_tokens=20), policy=V0, seed=5)
        assert server.bodies[0]["sampling_params"]["max_tokens"] == 4

    run_async(main())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"finish_reason": "abort"}, "abort"),
        ({"token_ids": [11]}, "1 tokens and 3 log-probabilities"),
        ({"logprobs": None}, "unexpected answer"),
        ({"logprobs": {"content": [{"logprob": -9999.0}] * 3}}, "NaN"),
        ({"weight_versions": [{"version": "a"}, {"version": "b"}]}, "sampled by"),
    ],
)
def test_half_an_answer_is_an_error(changes: dict[str, Any], message: str) -> None:
    async def main() -> None:
        async with Server(with_choice(**changes)).engine() as engine:
            with pytest.raises(EngineError, match=message):
                await engine.generate([1], Sampling(), policy=V0, seed=5)

    run_async(main())


def test_a_server_that_is_not_there_is_an_engine_error() -> None:
    async def main() -> None:
        engine = VllmEngine("http://127.0.0.1:9", model="base", max_context=64, tries=2, backoff_s=0.001)
        with pytest.raises(EngineError, match="Cannot connect"):
            await engine.generate([1], Sampling(), policy=V0, seed=5)
        await engine.close()

    run_async(main())


def test_check_learns_the_context_and_refuses_another_model() -> None:
    async def main() -> None:
        async with Server(good).engine(max_context=None) as engine:
            await engine.check()
            assert engine.max_context == 64
        async with Server(good).engine(model="other") as engine:
            with pytest.raises(EngineRefused, match=r"serves \['base'\], not 'other'"):
                await engine.check()

    run_async(main())


def test_a_server_that_reports_log_probabilities_of_before_the_temperature_is_seen() -> None:
    async def raw(request: web.Request) -> web.Response:
        found: list[dict[str, Any]] = [
            {"token_id": id, "logprob": value, "top_logprobs": []} for id, value in ((11, -9.0), (12, -4.0))
        ]
        span = {"version": "default", "start": 0, "end": 2}
        return await said(request, token_ids=[11, 12], logprobs={"content": found}, weight_versions=[span])

    async def main() -> None:
        server = Server(good, raw)
        async with server.engine() as engine:
            await expect_processed_logprobs(engine)
            with pytest.raises(EngineRefused, match=r"5 nats apart: .* --logprobs-mode processed_logprobs"):
                await expect_processed_logprobs(engine)
        assert {body["sampling_params"]["temperature"] for body in server.bodies} == {1e4}

    run_async(main())


def test_a_version_that_an_earlier_run_left_loaded_is_replaced() -> None:
    async def main() -> None:
        server = Server(good)
        server.loaded.append("policy-000003")
        async with server.engine() as engine:
            await engine.publish(WeightUpdate(version=V3, adapter=Path("adapters/3")))
            assert server.loaded == ["policy-000003"]
            await engine.retire(V3)
            assert server.loaded == []
            await engine.retire(V0)  # the base model stays

    run_async(main())


def test_an_adapter_moves_once_where_the_answer_is_lost() -> None:
    async def main() -> None:
        server = Server(good)
        server.loses_answers = True
        async with server.engine() as engine:
            await engine.publish(WeightUpdate(version=V3, adapter=Path("adapters/3")))
            assert server.loaded == ["policy-000003"]
            await engine.retire(V3)
            assert server.loaded == []

    run_async(main())


@pytest.mark.parametrize("answer", [{"object": "list"}, ["base"], {"data": [{"id": "base"}]}])
def test_a_server_that_is_not_vllm_is_refused(answer: Any) -> None:
    async def main() -> None:
        server = Server(good)
        server.told = answer
        async with server.engine() as engine:
            with pytest.raises(EngineRefused, match=r"not a list of models|another server"):
                await engine.check()

    run_async(main())


def test_the_key_is_a_header_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SOME_KEY", "s3cret-key")
    caplog.set_level(logging.DEBUG)

    async def main() -> None:
        server = Server(status(401))
        async with server.engine(api_key_env="SOME_KEY", tries=1) as engine:
            with pytest.raises(EngineRefused) as caught:
                await engine.generate([1], Sampling(), policy=V0, seed=5)
        assert server.headers[0]["Authorization"] == "Bearer s3cret-key"
        assert "s3cret-key" not in json.dumps(server.bodies) + repr(caught.value) + caplog.text

    run_async(main())
    with pytest.raises(ValueError, match="NO_SUCH_KEY"):
        VllmEngine("http://127.0.0.1:9", model="base", api_key_env="NO_SUCH_KEY")
    with pytest.raises(ValueError, match="api_key_env"):
        VllmEngine("http://me:pass@127.0.0.1:9", model="base")


def test_a_cancelled_call_does_not_wait_for_the_server() -> None:
    async def main() -> None:
        arrived = asyncio.Event()

        async def never(request: web.Request) -> web.StreamResponse:
            arrived.set()
            await asyncio.sleep(60)
            return await said(request)

        async with Server(never).engine() as engine:
            call = asyncio.create_task(engine.generate([1], Sampling(), policy=V0, seed=5))
            await arrived.wait()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call

    run_async(main())
