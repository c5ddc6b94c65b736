"""The in-process engine against transformers, and against itself in other company."""

import asyncio
import random
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import torch
from tiny_models import FAMILIES, logprobs_of, tiny_model

from palaestra.agents.engine import Finish, Generation, PolicyVersion, Sampling, WeightUpdate
from palaestra.agents.engines.local import LocalEngine
from palaestra.agents.errors import EngineError, EngineRefused

V0, V1, V2 = PolicyVersion(0), PolicyVersion(1), PolicyVersion(2)


@asynccontextmanager
async def opened(model: Any, **options: Any) -> AsyncGenerator[LocalEngine, None]:
    engine = LocalEngine(model, slots=options.pop("slots", 8), **options)
    try:
        yield engine
    finally:
        await engine.close()


def prompts(count: int, *, seed: int = 0, longest: int = 60) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(2, 97) for _ in range(rng.randrange(1, longest))] for _ in range(count)]


async def ask(
    engine: LocalEngine, prompt: Sequence[int], *, seed: int = 0, policy: PolicyVersion = V0, **sampling: Any
) -> Generation:
    chosen = Sampling(max_tokens=sampling.pop("max_tokens", 20), **sampling)
    return await engine.generate(prompt, chosen, policy=policy, seed=seed)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("temperature", [1.0, 0.7, 0.0])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_logprobs_are_those_of_transformers(
    family: str, temperature: float, dtype: torch.dtype, bound: float
) -> None:
    model = tiny_model(family, dtype=dtype)

    async def main() -> None:
        async with opened(model) as engine:
            answers = await asyncio.gather(
                *(
                    ask(engine, prompt, seed=i, temperature=temperature)
                    for i, prompt in enumerate(prompts(20))
                )
            )
        for prompt, answer in zip(prompts(20), answers, strict=True):
            expected = logprobs_of(model, prompt, list(answer.ids), temperature)
            assert answer.logprobs == pytest.approx(expected, rel=0, abs=bound)

    asyncio.run(main())


@pytest.mark.parametrize("deterministic", [False, True])
def test_turns_that_continue_a_slot_are_exact(deterministic: bool) -> None:
    model = tiny_model(dtype=torch.float64)

    async def episode(engine: LocalEngine, ids: list[int], seed: int) -> list[tuple[list[int], Generation]]:
        calls = list[tuple[list[int], Generation]]()
        for turn in range(3):
            answer = await ask(engine, ids, seed=10 * seed + turn, max_tokens=8)
            calls.append((list(ids), answer))
            ids = [*ids, *answer.ids, 3, 4, 5]
        return calls

    async def main() -> None:
        # Siblings share a prompt, and there are more episodes than slots.
        starts = [start for start in prompts(5, longest=40) for _ in range(4)]
        async with opened(model, slots=8, deterministic=deterministic) as engine:
            episodes = await asyncio.gather(*(episode(engine, ids, i) for i, ids in enumerate(starts)))
        for calls in episodes:
            for prompt, answer in calls:
                expected = logprobs_of(model, prompt, list(answer.ids))
                assert answer.logprobs == pytest.approx(expected, rel=0, abs=1e-10)

    asyncio.run(main())


def test_deterministic_answers_are_the_same_bits_in_any_company() -> None:
    model, asked = tiny_model(), prompts(24)

    async def in_order(order: list[int], *, at_once: int) -> list[Generation]:
        found: dict[int, Generation] = {}
        async with opened(model, deterministic=True) as engine:
            gate = asyncio.Semaphore(at_once)

            async def one(i: int) -> None:
                async with gate:
                    found[i] = await ask(engine, asked[i], seed=i, temperature=0.8 + 0.02 * i)

            await asyncio.gather(*(one(i) for i in order))
        return [found[i] for i in range(len(asked))]

    async def main() -> None:
        alone = await in_order(list(range(24)), at_once=1)
        assert alone == await in_order(list(range(24)), at_once=24)
        for seed in range(3):
            shuffled = random.Random(seed).sample(range(24), 24)
            assert alone == await in_order(shuffled, at_once=3 + 5 * seed)

    asyncio.run(main())


def test_deterministic_is_refused_where_a_row_depends_on_its_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    from palaestra.agents.engines.decoder import Batch, Decoder, Weights

    whole = Decoder.forward

    def in_unlike_pieces(decoder: Decoder, weights: Weights, batch: Batch) -> torch.Tensor:
        logits = whole(decoder, weights, batch)
        return torch.cat([logits[:-1], logits[-1:] * (1 + 1e-6)])

    with monkeypatch.context() as patch, pytest.raises(ValueError, match="slots=8 cannot be deterministic"):
        patch.setattr(Decoder, "forward", in_unlike_pieces)
        LocalEngine(tiny_model(), slots=8, deterministic=True)


def test_an_answer_depends_on_its_seed_and_not_on_the_batch() -> None:
    model, asked = tiny_model(), prompts(12)

    async def main() -> None:
        async with opened(model) as engine:
            crowd = await asyncio.gather(*(ask(engine, prompt, seed=i) for i, prompt in enumerate(asked)))
            for i, prompt in enumerate(asked):
                alone = await ask(engine, prompt, seed=i)
                assert alone.ids == crowd[i].ids
                assert alone.logprobs == pytest.approx(crowd[i].logprobs, rel=0, abs=1e-5)
            others = {(await ask(engine, asked[0], seed=seed)).ids for seed in range(10)}
            assert len(others) == 10

    asyncio.run(main())


def test_it_stops_at_a_stop_id_at_max_tokens_or_at_the_context() -> None:
    model = tiny_model()

    async def main() -> None:
        async with opened(model, max_context=40) as engine:
            free = await ask(engine, [5, 6, 7], max_tokens=20)
            assert (len(free.ids), free.finish) == (20, Finish.LENGTH)
            stop = free.ids[7]
            cut = free.ids.index(stop) + 1
            stopped = await ask(engine, [5, 6, 7], max_tokens=20, stop_ids=(96, stop))
            assert (stopped.ids, stopped.finish) == (free.ids[:cut], Finish.STOP)
            assert [(span.start, span.end) for span in stopped.versions] == [(0, cut)]
            full = await ask(engine, list(range(2, 37)), max_tokens=20)
            assert (len(full.ids), full.finish) == (5, Finish.LENGTH)

    asyncio.run(main())


def test_versions_in_flight_stay_on_their_weights() -> None:
    models = [tiny_model(seed=seed, dtype=torch.float64) for seed in range(3)]

    async def main() -> None:
        async with opened(models[0], slots=4) as engine:
            running = [
                asyncio.create_task(ask(engine, p, seed=i, max_tokens=60)) for i, p in enumerate(prompts(6))
            ]
            for version in (V1, V2):
                await asyncio.sleep(0)
                await engine.publish(WeightUpdate(version=version, state=models[version].state_dict()))
                running += [
                    asyncio.create_task(ask(engine, p, seed=i, max_tokens=60, policy=version))
                    for i, p in enumerate(prompts(6))
                ]
            with torch.no_grad():
                for parameter in models[1].parameters():
                    parameter.mul_(2)  # the learner goes on; what was published must not move with it
            answers = await asyncio.gather(*running)
        with torch.no_grad():
            for parameter in models[1].parameters():
                parameter.div_(2)
        for i, answer in enumerate(answers):
            version, prompt = PolicyVersion(i // 6), prompts(6)[i % 6]
            assert answer.versions[0].version == version
            expected = logprobs_of(models[version], prompt, list(answer.ids))
            assert answer.logprobs == pytest.approx(expected, rel=0, abs=1e-10)

    asyncio.run(main())


def test_a_retired_version_is_refused_but_its_answers_finish() -> None:
    model = tiny_model()

    async def main() -> None:
        async with opened(model) as engine:
            await engine.publish(WeightUpdate(version=V1, state=tiny_model(seed=1).state_dict()))
            before = await ask(engine, [5, 6, 7], policy=V1, max_tokens=60)
            running = asyncio.create_task(ask(engine, [5, 6, 7], policy=V1, max_tokens=60))
            await asyncio.sleep(0)
            await engine.retire(V1)
            assert (await running).ids == before.ids
            with pytest.raises(EngineRefused, match="version 1 is not published"):
                await ask(engine, [5], policy=V1)
            with pytest.raises(EngineRefused, match="version 1"):
                await engine.retire(V1)
            # The number may come again with other weights: nothing cached for the old ones is used.
            await engine.publish(WeightUpdate(version=V1, state=tiny_model(seed=2).state_dict()))
            again = await ask(engine, [5, 6, 7], policy=V1)
            assert again.logprobs == pytest.approx(
                logprobs_of(tiny_model(seed=2), [5, 6, 7], list(again.ids)), rel=0, abs=1e-5
            )

    asyncio.run(main())


@pytest.mark.parametrize(
    ("prompt", "message"),
    [([], "prompt of 0 tokens"), ([5] * 128, "prompt of 128 tokens"), ([5, 97], "outside of 0 .. 96")],
)
def test_a_wrong_prompt_is_refused(prompt: list[int], message: str) -> None:
    async def main() -> None:
        async with opened(tiny_model()) as engine:
            with pytest.raises(EngineRefused, match=message):
                await ask(engine, prompt)

    asyncio.run(main())


def test_a_wrong_state_is_refused() -> None:
    model = tiny_model()

    async def main() -> None:
        async with opened(model) as engine:
            state = model.state_dict()
            with pytest.raises(EngineRefused, match="missing"):
                await engine.publish(WeightUpdate(version=V1, state={"w": torch.zeros(1)}))
            with pytest.raises(EngineRefused, match="shape"):
                await engine.publish(
                    WeightUpdate(version=V1, state=state | {"model.norm.weight": torch.zeros(1)})
                )
            with pytest.raises(EngineRefused, match="published already"):
                await engine.publish(WeightUpdate(version=V0, state=state))

    asyncio.run(main())


def test_a_cancelled_call_frees_its_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    from palaestra.agents.engines.decoder import Decoder

    forward, forwards, started = Decoder.forward, list[int](), threading.Event()

    def counted(*arguments: Any) -> torch.Tensor:
        forwards.append(1)
        started.set()
        return forward(*arguments)

    async def main() -> None:
        model = tiny_model(max_position_embeddings=4096)
        async with opened(model, slots=1) as engine:
            calls = [asyncio.create_task(ask(engine, [5 + i, 6], max_tokens=4000)) for i in range(2)]
            await asyncio.to_thread(started.wait, 60)
            for call in calls:  # one in the slot, one in the queue
                call.cancel()
            answer = await ask(engine, [9])
            assert answer.logprobs == pytest.approx(logprobs_of(model, [9], list(answer.ids)), abs=1e-5)
            assert len(forwards) < 4000

    monkeypatch.setattr(Decoder, "forward", counted)
    asyncio.run(main())


def test_close_answers_what_is_in_flight_and_ends_the_thread() -> None:
    async def main() -> None:
        engine = LocalEngine(tiny_model(max_position_embeddings=4096), slots=2)
        calls = [asyncio.create_task(ask(engine, [5 + i], max_tokens=4000)) for i in range(4)]
        await asyncio.sleep(0)
        await engine.close()
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(answer, EngineError) for answer in answers)
        with pytest.raises(EngineError, match="closed"):
            await ask(engine, [5])
        await engine.close()

    asyncio.run(main())


def test_a_failed_forward_is_an_error_of_its_requests_only(monkeypatch: pytest.MonkeyPatch) -> None:
    from palaestra.agents.engines.decoder import Decoder

    def broken(*arguments: object) -> torch.Tensor:
        return torch.zeros(2) + torch.zeros(3)

    async def main() -> None:
        async with opened(tiny_model()) as engine:
            before = await ask(engine, [5, 6, 7])
            with monkeypatch.context() as patch:
                patch.setattr(Decoder, "forward", broken)
                with pytest.raises(EngineError, match="forward failed"):
                    await ask(engine, [5, 6, 7])
            assert (await ask(engine, [5, 6, 7])).ids == before.ids

    asyncio.run(main())


def test_broken_weights_are_an_error_of_their_version_only() -> None:
    async def main() -> None:
        model = tiny_model()
        state = dict(model.state_dict())
        nan = state | {"model.norm.weight": torch.full_like(state["model.norm.weight"], float("nan"))}
        lost = state | {"model.norm.weight": state["model.norm.weight"].to("meta")}
        async with opened(model) as engine:
            await engine.publish(WeightUpdate(version=V1, state=nan))
            with pytest.raises(EngineError, match="NaN"):
                await ask(engine, [5, 6, 7], policy=V1)
            with pytest.raises(EngineError, match="meta"):
                await asyncio.wait_for(engine.publish(WeightUpdate(version=V2, state=lost)), 60)
            await ask(engine, [5, 6, 7])

    asyncio.run(main())


def test_what_it_cannot_decode_is_refused_at_the_start() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(vocab_size=10, n_embd=8, n_layer=1, n_head=1))
    with pytest.raises(ValueError, match="gpt2"):
        LocalEngine(model)
    with pytest.raises(ValueError, match="not a folder"):
        LocalEngine("no/such/model")


def test_the_module_loads_without_torch() -> None:
    code = "import sys, palaestra.agents.engines.local; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
