"""What an episode costs the client: 4-turn tool episodes against an engine server that answers at once.

    python benchmarks/rollouts.py [--json PATH]

Beside each other, in one process and one run: a bare aiohttp client that posts the same payloads,
`VllmEngine` alone, and whole episodes (environment, renderer, token graph, outcome). The server is a process
of its own; processor time is this process's.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from palaestra.agents.engine import PolicyVersion, Sampling
from palaestra.agents.engines.vllm import VllmEngine
from palaestra.agents.policy import EnginePolicy
from palaestra.agents.renderer import Renderer
from palaestra.agents.rollout import Rollout
from palaestra.agents.trajectory import EpisodeKey
from palaestra.envs import Budget, Task, ToolEnv, UserMessage, tool

TURNS = 4
EPISODES = {32: 256, 256: 512}
"""Episodes played, by episodes in flight."""
ROUNDS = 3
CALL = '<tool_call>\n{"name": "lookup", "arguments": {"city": "Olympia", "year": -776}}\n</tool_call>'
TEMPLATE = (
    "{% if tools %}<|im_start|>system\n{% for t in tools %}{{ t | tojson }}\n{% endfor %}<|im_end|>\n"
    "{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for call in m.tool_calls or [] %}<tool_call>\n{{ call.function | tojson }}\n</tool_call>{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class Almanac(ToolEnv[Task]):
    """Looks things up; the budget ends the episode."""

    budget = Budget(max_turns=TURNS)

    @tool
    async def lookup(self, city: str, year: int) -> str:
        """What happened in a city.

        Args:
            city: its name
            year: negative before our era
        """
        return f"In {year} the first recorded games were held in {city}; the winner was Koroibos, a cook."


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """One way of making the same requests."""

    cpu_ms_per_turn: float
    episodes_per_s: float


def renderer() -> Renderer:
    """One token per byte, so that the counts below are easy to check."""
    pieces = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={piece: id for id, piece in enumerate(pieces)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(text, normalized=False) for text in ("<|im_start|>", "<|im_end|>")]
    tokenizer.add_special_tokens(special)  # pyright: ignore[reportUnknownMemberType]  its stub says "list"
    return Renderer(tokenizer, TEMPLATE, format="hermes", special_tokens={"eos_token": "<|im_end|>"})


def serve(answer_ids: list[int], port: Connection) -> None:
    """The engine's end: the same answer to every request, prepared beforehand."""
    choice: dict[str, Any] = {
        "index": 0,
        "token_ids": answer_ids,
        "logprobs": {
            "content": [{"token_id": id, "logprob": -0.25, "top_logprobs": []} for id in answer_ids]
        },
        "finish_reason": "stop",
        "weight_versions": [{"version": "default", "start": 0, "end": len(answer_ids)}],
    }
    answer = json.dumps({"model": "base", "choices": [choice]}).encode()

    async def generate(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(body=answer, content_type="application/json")

    async def main() -> None:
        app = web.Application()
        app.router.add_post("/inference/v1/generate", generate)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port.send(runner.addresses[0][1])
        await asyncio.get_running_loop().run_in_executor(None, port.poll, None)  # the benchmark has ended
        await runner.cleanup()

    asyncio.run(main())


async def measure(in_flight: int, episode: Callable[[int], Awaitable[None]]) -> Cost:
    """Play the episodes and divide this process's time among them."""
    count, gate = EPISODES[in_flight], asyncio.Semaphore(in_flight)

    async def one(number: int) -> None:
        async with gate:
            await episode(number)

    wall, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(one(number) for number in range(count)))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Cost(cpu_ms_per_turn=1e3 * cpu / (count * TURNS), episodes_per_s=count / wall)


class Bench:
    """The three clients of one server."""

    def __init__(self, port: int, render: Renderer, answer_ids: list[int]) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.engine = VllmEngine(self.url, model="base", max_context=4096)
        self.render, self.answer_ids = render, answer_ids
        self.sampling = Sampling(max_tokens=128)
        self.prompts = list[tuple[int, ...]]()
        self.bodies = list[dict[str, Any]]()
        self.session: aiohttp.ClientSession

    async def run(self) -> dict[int, dict[str, list[Cost]]]:
        """[in flight][client] -> one cost per round."""
        await self.record()
        found: dict[int, dict[str, list[Cost]]] = {}
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as self.session:
            for in_flight in EPISODES:
                clients = {"bare": self.bare, "engine": self.engine_only, "episodes": self.episode}
                costs = found[in_flight] = {name: [] for name in clients}
                for number in range(ROUNDS):
                    print(f"{in_flight} in flight, round {number + 1} of {ROUNDS}", file=sys.stderr)
                    for name, client in clients.items():
                        costs[name].append(await measure(in_flight, client))
        await self.engine.close()
        return found

    async def record(self) -> None:
        """The prompts of one episode, to post them again with the other clients."""
        trajectory = await self.play(0)
        (segment,) = trajectory.graph.segments
        held: tuple[int, ...] = ()
        for call in segment.calls:
            self.prompts.append(held + call.prompt_ids)
            held += call.prompt_ids + call.completion_ids
        for prompt in self.prompts:
            params: dict[str, Any] = {
                "temperature": 1.0,
                "top_p": 1.0,
                "max_tokens": 128,
                "logprobs": 0,
                "seed": 1,
            }
            params |= {"stop_token_ids": self.render.stop_ids, "ignore_eos": True, "detokenize": False}
            body = {"model": "base", "token_ids": list(prompt), "sampling_params": params}
            self.bodies.append(body | {"cache_salt": "0123456789abcdef"})

    async def bare(self, number: int) -> None:
        for body in self.bodies:
            async with self.session.post(f"{self.url}/inference/v1/generate", json=body) as response:
                answer = await response.json()
            assert len(answer["choices"][0]["token_ids"]) == len(self.answer_ids)

    async def engine_only(self, number: int) -> None:
        for prompt in self.prompts:
            answer = await self.engine.generate(prompt, self.sampling, policy=PolicyVersion(0), seed=number)
            assert len(answer.logprobs) == len(self.answer_ids)

    async def episode(self, number: int) -> None:
        trajectory = await self.play(number)
        assert trajectory.graph.num_sampled == TURNS * len(self.answer_ids), trajectory

    async def play(self, number: int) -> Any:
        rollout = Rollout(
            make_env=Almanac,
            make_policy=lambda task, version, seed: EnginePolicy(
                self.engine, self.render, self.sampling, version=version, seed=seed
            ),
            run_seed=0,
        )
        task = Task(id="games", messages=(UserMessage("Who won the first games at Olympia? " * 6),))
        key = EpisodeKey(epoch=0, task_id=task.id, sample=number)
        return await rollout(key, task, PolicyVersion(0))


def report(found: dict[int, dict[str, list[Cost]]], bench: Bench) -> dict[str, Any]:
    """Medians over the rounds; each ratio is of one round's neighbours."""
    ratios, costs = dict[str, float](), dict[str, Any]()
    for in_flight, clients in found.items():
        for name, rounds in clients.items():
            costs[f"{name}_{in_flight}"] = asdict(
                sorted(rounds, key=lambda cost: cost.cpu_ms_per_turn)[ROUNDS // 2]
            )
            if name != "bare":
                pairs = zip(rounds, clients["bare"], strict=True)
                ratio = statistics.median(ours.cpu_ms_per_turn / bare.cpu_ms_per_turn for ours, bare in pairs)
                ratios[f"{name}_cpu_over_bare_{in_flight}"] = round(ratio, 2)
    conditions = {
        "costs": costs,
        "turns": TURNS,
        "prompt_tokens": [len(prompt) for prompt in bench.prompts],
        "answer_tokens": len(bench.answer_ids),
        "episodes": EPISODES,
        "rounds": ROUNDS,
        "python": platform.python_version(),
        "aiohttp": aiohttp.__version__,
        "cpus": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "bar": "episodes_cpu_over_bare below 6",
    }
    return {"ratios": ratios, "conditions": conditions}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, help="write the figures there")
    path: Path | None = parser.parse_args().json
    render = renderer()
    answer_ids = [*render.tokenizer.encode(CALL, add_special_tokens=False).ids, *render.stop_ids[:1]]
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(
        target=serve, args=(answer_ids, theirs), daemon=True
    )
    server.start()
    try:
        bench = Bench(ours.recv(), render, answer_ids)
        found = report(asyncio.run(bench.run()), bench)
    finally:
        ours.send(None)
        server.join(10)
    print(json.dumps(found, indent=2))
    if path is not None:
        path.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
