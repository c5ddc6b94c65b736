"""VllmEngine against a real vLLM server with a tiny random model."""

import asyncio
import random
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest
from processes import group, listening, wait_until_gone
from support import require, run_async, vllm_python
from tiny_models import logprobs_of, manual_seed, tiny_model

from palaestra.agents.canary import USUAL_BOUNDS, PolicyDrift, canary
from palaestra.agents.engine import Finish, Generation, PolicyVersion, Sampling, WeightUpdate
from palaestra.agents.engines.vllm import VllmEngine
from palaestra.agents.engines.vllm_server import VllmServer
from palaestra.agents.errors import EngineError, EngineRefused

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(600),
    # peft reads a name that transformers has begun to rename.
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
]

T = TypeVar("T")
V0, V1, V2 = PolicyVersion(0), PolicyVersion(1), PolicyVersion(2)
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def base_model() -> Any:
    # vLLM's kernels for processors want heads of 32.
    return tiny_model(hidden_size=128, head_dim=32, max_position_embeddings=512)


def adapted(seed: int, folder: Path) -> Any:
    """The model with a random adapter, which is saved in `folder` for vLLM."""
    from peft import LoraConfig, get_peft_model

    model = base_model()
    manual_seed(100 + seed)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS, init_lora_weights=False)
    wrapped = get_peft_model(model, config).eval()
    wrapped.save_pretrained(str(folder))
    return wrapped


class Hosted:
    """One server for all tests: started when first asked for, and again when a test has ended it."""

    def __init__(self, folder: Path) -> None:
        self.loop = asyncio.new_event_loop()
        self.server = VllmServer(folder / "model", log=folder / "vllm.log", python=vllm_python())
        self.folder = folder

    def run(self, test: Callable[[VllmEngine], Awaitable[T]]) -> T:
        async def main() -> T:
            if self.server.pid is None:
                await self.server.start()
            engine = VllmEngine(self.server.url, model=self.server.model, tries=2, backoff_s=0.1)
            await engine.check()
            try:
                return await test(engine)
            finally:
                await engine.close()

        return self.loop.run_until_complete(main())


@pytest.fixture(scope="module")
def hosted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosted]:
    require("vllm")
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("vllm")
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(97)}, unk_token="w0"))
    base_model().save_pretrained(folder / "model")
    fast: Any = PreTrainedTokenizerFast  # partly untyped
    fast(tokenizer_object=words, unk_token="w0", eos_token="w1").save_pretrained(folder / "model")
    found = Hosted(folder)
    yield found
    found.loop.run_until_complete(found.server.stop())
    found.loop.close()


def prompts(count: int, *, longest: int = 60) -> list[list[int]]:
    rng = random.Random(0)
    return [[rng.randrange(2, 97) for _ in range(rng.randrange(1, longest))] for _ in range(count)]


async def ask(
    engine: VllmEngine, prompt: Sequence[int], seed: int, policy: PolicyVersion = V0, **sampling: Any
) -> Generation:
    chosen = Sampling(max_tokens=sampling.pop("max_tokens", 24), **sampling)
    return await engine.generate(prompt, chosen, policy=policy, seed=seed)


def assert_exact(model: Any, prompt: list[int], answer: Generation, temperature: float = 1.0) -> None:
    expected = logprobs_of(model, prompt, list(answer.ids), temperature)
    assert answer.logprobs == pytest.approx(expected, rel=0, abs=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_are_those_of_transformers(hosted: Hosted, temperature: float) -> None:
    async def test(engine: VllmEngine) -> list[Generation]:
        calls = (ask(engine, p, i, temperature=temperature) for i, p in enumerate(prompts(8)))
        return await asyncio.gather(*calls)

    for prompt, answer in zip(prompts(8), hosted.run(test), strict=True):
        assert_exact(base_model(), prompt, answer, temperature)


def test_a_seed_gives_the_same_sample_alone_and_in_a_batch(hosted: Hosted) -> None:
    async def test(engine: VllmEngine) -> None:
        batch = await asyncio.gather(*(ask(engine, prompt, i) for i, prompt in enumerate(prompts(8))))
        for i, prompt in enumerate(prompts(8)):
            alone = await ask(engine, prompt, i)
            assert alone.ids == batch[i].ids
            assert alone.logprobs == pytest.approx(batch[i].logprobs, rel=0, abs=1e-5)
        assert (await ask(engine, prompts(1)[0], 99)).ids != batch[0].ids

    hosted.run(test)


def test_it_stops_at_stop_ids_only_and_keeps_them(hosted: Hosted) -> None:
    async def test(engine: VllmEngine) -> None:
        # The tokenizer's end of sequence is 1: sampled often enough here, it must not end an answer.
        free = [await ask(engine, [5, 6], seed, max_tokens=200) for seed in range(3)]
        assert {answer.finish for answer in free} == {Finish.LENGTH}
        assert any(1 in answer.ids for answer in free)
        stop = free[0].ids[9]
        cut = free[0].ids.index(stop) + 1
        stopped = await ask(engine, [5, 6], 0, max_tokens=200, stop_ids=(stop,))
        assert (stopped.ids, stopped.finish) == (free[0].ids[:cut], Finish.STOP)

    hosted.run(test)


def test_versions_in_flight_stay_exact_and_a_retired_one_is_refused(hosted: Hosted) -> None:
    models = {version: adapted(version, hosted.folder / f"adapter-{version}") for version in (V1, V2)}
    asked = prompts(6)

    async def test(engine: VllmEngine) -> dict[PolicyVersion, list[Generation]]:
        await engine.publish(WeightUpdate(version=V1, adapter=hosted.folder / "adapter-1"))
        older = [asyncio.create_task(ask(engine, p, i, V1, max_tokens=150)) for i, p in enumerate(asked)]
        await ask(engine, [5], 0, V1, max_tokens=4)  # the others are under way now
        await engine.publish(WeightUpdate(version=V2, adapter=hosted.folder / "adapter-2"))
        newer = [asyncio.create_task(ask(engine, p, i, V2, max_tokens=50)) for i, p in enumerate(asked)]
        assert not any(call.done() for call in older)
        answers = {V1: await asyncio.gather(*older), V2: await asyncio.gather(*newer)}
        await engine.retire(V1)
        with pytest.raises(EngineRefused, match="404"):
            await ask(engine, [5], 0, V1)
        assert (await ask(engine, asked[0], 0, V2, max_tokens=50)).ids == answers[V2][0].ids
        await engine.retire(V2)
        return answers

    for version, answers in hosted.run(test).items():
        for prompt, answer in zip(asked, answers, strict=True):
            assert answer.versions[0].version == version
            assert_exact(models[version], prompt, answer)


def test_a_name_and_folder_that_come_again_bring_their_new_weights(hosted: Hosted) -> None:
    # Longer than a block of the prefix cache, which is 128 tokens here.
    folder, prompt = hosted.folder / "adapter-again", (prompts(1)[0] * 400)[:400]

    async def publish_and_ask(engine: VllmEngine) -> Generation:
        await engine.publish(WeightUpdate(version=V1, adapter=folder))
        return await ask(engine, prompt, 0, V1)

    # Two runs, one after the other, on one server: the first one leaves its version behind.
    for seed in (3, 4):
        model = adapted(seed, folder)
        assert_exact(model, prompt, hosted.run(publish_and_ask))
    hosted.run(lambda engine: engine.retire(V1))


def test_the_canary_passes_the_right_weights_and_refuses_others(hosted: Hosted) -> None:
    model, other = (adapted(seed, hosted.folder / f"canary-{seed}") for seed in (5, 6))

    async def test(engine: VllmEngine) -> None:
        await engine.publish(WeightUpdate(version=V1, adapter=hosted.folder / "canary-5"))
        asked, bound = prompts(3), USUAL_BOUNDS["float32"]
        report = await canary(engine, lambda p, a: logprobs_of(model, list(p), list(a)), V1, asked, bound)
        assert report.num_tokens == 48
        assert report.max_drift < 1e-4
        with pytest.raises(PolicyDrift, match="other weights"):
            await canary(engine, lambda p, a: logprobs_of(other, list(p), list(a)), V1, asked, bound)
        await engine.retire(V1)

    hosted.run(test)


def test_what_the_server_cannot_load_is_refused(hosted: Hosted) -> None:
    async def test(engine: VllmEngine) -> None:
        with pytest.raises(EngineError, match="nowhere"):
            await engine.publish(WeightUpdate(version=V1, adapter=Path("nowhere")))
        with pytest.raises(EngineRefused, match="prompt of 512 tokens"):
            await ask(engine, [5] * 512, 0)

    hosted.run(test)


def test_it_listens_on_loopback_only(hosted: Hosted) -> None:
    async def test(engine: VllmEngine) -> None:
        assert hosted.server.pid is not None
        found = listening(hosted.server.pid)
        assert hosted.server.url in [f"http://{address}:{port}" for address, port in found]
        assert {address for address, _ in found} == {"127.0.0.1"}

    hosted.run(test)


def test_a_stopped_server_is_an_engine_error_and_leaves_no_process(hosted: Hosted) -> None:
    async def test(engine: VllmEngine) -> None:
        pid = hosted.server.pid
        assert pid is not None and len(group(pid)) >= 3
        calls = [asyncio.create_task(ask(engine, [5 + i], i, max_tokens=500)) for i in range(4)]
        await ask(engine, [4], 0, max_tokens=1)
        await hosted.server.stop()
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(answer) for answer in answers] == [EngineError] * 4
        wait_until_gone(pid)  # killed they are all at once, and a large one takes a moment to go

    hosted.run(test)


def test_a_server_dies_with_a_killed_trainer(hosted: Hosted) -> None:
    model, log, python = hosted.folder / "model", hosted.folder / "killed.log", vllm_python()
    code = f"""
import asyncio, pathlib
from palaestra.agents.engines.vllm_server import VllmServer

def show(seconds, line):
    print(server.pid, line, flush=True)

server = VllmServer({str(model)!r}, log=pathlib.Path({str(log)!r}), python={str(python)!r}, progress=show)
asyncio.run(server.start())
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as trainer:
        assert trainer.stdout is not None
        # Wait for the server's own words: by then it is more than the guard.
        line = next(line for line in trainer.stdout if len(line.split()) > 1)
        pid = int(line.split()[0])
        assert len(group(pid)) >= 2
        trainer.send_signal(signal.SIGKILL)
        wait_until_gone(pid)


def test_a_start_that_fails_says_why(hosted: Hosted, tmp_path: Path) -> None:
    async def main() -> None:
        missing = VllmServer(tmp_path / "no-model", log=tmp_path / "vllm.log", python=vllm_python())
        with pytest.raises(EngineError, match=r"(?s)ended while starting.*no-model"):
            await missing.start()
        with pytest.raises(EngineError, match="no/such/python"):
            await VllmServer(tmp_path, log=tmp_path / "vllm.log", python="no/such/python").start()
        async with await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0) as other:
            port = other.sockets[0].getsockname()[1]
            taken = VllmServer(tmp_path, log=tmp_path / "vllm.log", python=vllm_python(), port=port)
            with pytest.raises(EngineError, match=rf"port {port}.*in use"):
                await taken.start()

    run_async(main())
