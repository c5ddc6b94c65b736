"""Faults on purpose: the plan, and what single calls and episodes make of them."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from chats import CHATML, byte_tokenizer
from support import run_async

from palaestra.agents.collector import Collector, GroupRequest
from palaestra.agents.engine import Engine, PolicyVersion, Sampling
from palaestra.agents.engines.scripted import ScriptedEngine, in_turn
from palaestra.agents.engines.vllm import VllmEngine
from palaestra.agents.errors import EngineError
from palaestra.agents.faults import FaultyEngine
from palaestra.agents.ledger import Ledger
from palaestra.agents.policy import EnginePolicy
from palaestra.agents.renderer import Renderer
from palaestra.agents.rollout import Rollout
from palaestra.envs import Env, Failed, ScriptedPolicy, Task, UserMessage
from palaestra.envs.faults import Fault, Faults

V0 = PolicyVersion(0)
TOKENIZER = byte_tokenizer()
END = 257
RENDERER = Renderer(TOKENIZER, CHATML, special_tokens={"eos_token": "<|im_end|>"})
TASKS = [Task(id=f"t{number}", messages=(UserMessage("Well?"),)) for number in range(30)]


def requests(samples: int) -> list[GroupRequest]:
    return [GroupRequest(split="train", epoch=0, task=t, num_samples=samples, version=V0) for t in TASKS]


def one_answer(engine: Engine) -> Rollout:
    """Episodes of one question and one answer."""
    return Rollout(
        make_env=Env[Task],
        make_policy=lambda task, version, seed: EnginePolicy(
            engine, RENDERER, Sampling(max_tokens=8), version=version, seed=seed
        ),
        run_seed=0,
    )


def test_the_same_calls_fail_in_whatever_order_they_come() -> None:
    def struck(seeds: list[int]) -> dict[int, str | None]:
        faults = Faults(seed=4, rates={Fault.ENGINE_ERROR: 0.1})
        found = {seed: faults.strike(Fault.ENGINE_ERROR, seed) for seed in seeds}
        assert sorted(faults.log) == sorted(fault for fault in found.values() if fault)
        return found

    forwards = struck(list(range(2000)))
    assert struck(list(range(1999, -1, -1))) == forwards
    ids = [fault for fault in forwards.values() if fault]
    assert len(set(ids)) == len(ids) and 150 < len(ids) < 250


def test_a_kind_without_a_rate_never_strikes() -> None:
    faults = Faults(seed=0, rates={Fault.TOOL_CRASH: 1.0})
    assert all(faults.strike(Fault.TOOL_HANG, seed) is None for seed in range(100))
    assert faults.strike(Fault.TOOL_CRASH, 0) != faults.strike(Fault.TOOL_CRASH, 0)


def test_a_faulty_engine_fails_some_calls_and_passes_the_others_on() -> None:
    async def main() -> None:
        faults = Faults(seed=0, rates={Fault.ENGINE_ERROR: 0.5})
        inner = ScriptedEngine(in_turn([[5, 2]]))
        engine, failed = FaultyEngine(inner, faults), list[str]()
        for seed in range(20):
            try:
                answer = await engine.generate([1], Sampling(), policy=V0, seed=seed)
            except EngineError as error:
                failed.append(str(error))
            else:
                assert answer.ids == (5, 2)
        assert failed == [f"500 Internal Server Error: {fault}" for fault in faults.log]
        assert len(failed) + len(inner.calls) == 20 and failed and inner.calls

    run_async(main())


@asynccontextmanager
async def server(faults: Faults, **options: Any) -> AsyncGenerator[VllmEngine, None]:
    """A server that speaks /inference/v1/generate, and the engine that asks it."""

    async def generate(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if fault := faults.strike(Fault.ENGINE_ERROR, body["sampling_params"]["seed"]):
            return web.Response(status=500, text=fault)
        said = [{"token_id": token, "logprob": -0.5} for token in (65, END)]
        choice = {"token_ids": [65, END], "logprobs": {"content": said}, "finish_reason": "stop"}
        return web.json_response({"model": body["model"], "choices": [choice]})

    app = web.Application()
    app.router.add_post("/inference/v1/generate", generate)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    engine = VllmEngine(url, model="base", max_context=200, backoff_s=0.001, **options)
    try:
        yield engine
    finally:
        await engine.close()
        await runner.cleanup()


def test_every_500_that_reaches_an_episode_is_on_record_once(tmp_path: Path) -> None:
    async def main() -> None:
        faults = Faults(seed=0, rates={Fault.ENGINE_ERROR: 0.1})
        with Ledger(tmp_path) as ledger:
            async with server(faults, tries=1) as engine:
                groups = await Collector(one_answer(engine), ledger, retry_s=0.0).collect(requests(4))
            stored = list(ledger.trajectories("train"))
        messages = [each.outcome.message for each in stored if isinstance(each.outcome, Failed)]
        assert 5 < len(faults.log) == len(messages)
        assert all(sum(fault in message for message in messages) == 1 for fault in faults.log)
        # Each was tried again, so that every group is whole.
        assert [each.reward for group in groups for each in group.members] == [0.0] * 120
        assert len(stored) == 120 + len(faults.log)

    run_async(main())


def test_the_clients_own_tries_keep_a_tenth_of_500s_from_the_episodes(tmp_path: Path) -> None:
    async def main() -> None:
        faults = Faults(seed=0, rates={Fault.ENGINE_ERROR: 0.1})
        with Ledger(tmp_path) as ledger:
            async with server(faults) as engine:
                await Collector(one_answer(engine), ledger, retry_s=0.0).collect(requests(4))
            assert ledger.counts("train") == {"scored": 120}
        assert faults.log

    run_async(main())


def test_an_environment_that_cannot_be_made_fails_its_episode_only(tmp_path: Path) -> None:
    made = list[int]()

    def make_env() -> Env[Task]:
        made.append(1)
        if len(made) == 2:
            raise OSError("no more files")
        return Env[Task]()

    async def main() -> None:
        rollout = Rollout(
            make_env=make_env, make_policy=lambda task, version, seed: ScriptedPolicy(["A"]), run_seed=0
        )
        with Ledger(tmp_path) as ledger:
            await Collector(rollout, ledger, max_in_flight=1, retry_s=0.0).collect(requests(1)[:3])
            (failed,) = [each.outcome for each in ledger.trajectories("train") if each.reward is None]
            assert ledger.counts("train") == {"scored": 3, "failed": 1}
        assert failed == Failed(stage="reset", cause="OSError", retryable=True, message="no more files")

    run_async(main())


class Silent(ScriptedEngine):
    """Never answers."""

    async def generate(self, *arguments: Any, **options: Any) -> Any:
        await asyncio.Event().wait()


def test_episodes_that_do_not_end_are_named_by_what_they_wait_for(tmp_path: Path) -> None:
    async def main() -> None:
        rollout = one_answer(Silent(in_turn([[65]])))
        told, enough = list[tuple[float, list[str]]](), asyncio.Event()

        def on_stuck(seconds: float) -> None:
            told.append((seconds, list(rollout.whereabouts.values())))
            if len(told) == 2:
                enough.set()

        with Ledger(tmp_path) as ledger:
            collector = Collector(rollout, ledger, on_stuck=on_stuck, stuck_after_s=0.05)
            collecting = asyncio.create_task(collector.collect(requests(1)[:3]))
            await enough.wait()
            collecting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await collecting
        assert [seconds for seconds, _ in told] == pytest.approx([0.05, 0.1])
        assert told[-1][1] == ["policy"] * 3
        assert not rollout.whereabouts

    run_async(main())
