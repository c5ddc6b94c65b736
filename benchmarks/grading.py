"""What outstanding grades cost the run that waits for them: memory, processor and requests.

python benchmarks/grading.py --jobs 1000 --seconds 60 [--callback] [--age 300]

The grader is a service in another process that never finishes. `--age`: how old the jobs are when the count
begins, which is what a look at them waits for; the pauses grow to a tenth of it. Prints one line of JSON.
"""

import argparse
import asyncio
import json
import multiprocessing
import resource
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

from aiohttp import web

from palaestra.agents.collector import Collector, GroupRequest
from palaestra.agents.engine import PolicyVersion
from palaestra.agents.grading.callback import CallbackServer
from palaestra.agents.grading.job import GradeLimits
from palaestra.agents.grading.stage import Grading
from palaestra.agents.grading.web import Web
from palaestra.agents.ledger import Ledger
from palaestra.agents.tokengraph import TokenGraph
from palaestra.agents.trajectory import EpisodeKey, Played
from palaestra.envs import AssistantMessage, Episode, StopReason, Task, UserMessage, Workspace

V0 = PolicyVersion(0)
EPISODE_BYTES = 1 << 14
"""Of text and files in each episode."""


def serve(pipe: Connection) -> None:
    """The grader: it takes every job, and is never done."""
    count = {"polls": 0}

    async def submit(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(status=202, headers={"Location": f"/jobs/{request.headers['Idempotency-Key']}"})

    async def poll(request: web.Request) -> web.Response:
        count["polls"] += 1
        return web.json_response({"status": "running", "beat": count["polls"]}, status=202)

    async def main() -> None:
        app = web.Application(client_max_size=1 << 24)
        app.add_routes([web.post("/jobs", submit), web.get("/jobs/{key}", poll)])
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        ((_, port),) = runner.addresses
        pipe.send(port)
        await asyncio.to_thread(pipe.recv)
        await runner.cleanup()
        pipe.send(count["polls"])

    asyncio.run(main())


async def play(key: EpisodeKey, task: Task, version: PolicyVersion) -> Played:
    said = AssistantMessage("x" * EPISODE_BYTES)
    files = Workspace(files=(("answer", b"y" * EPISODE_BYTES),))
    episode = Episode(
        task_id=task.id,
        seed=0,
        messages=(UserMessage("go"), said),
        rewards=(0.0,),
        stop=StopReason.DONE,
        workspace=files,
    )
    return Played(key=key, version=version, episode=episode, graph=TokenGraph())


async def measure(url: str, jobs: int, seconds: float, age: float, callback: bool) -> dict[str, float]:
    """What the jobs cost when all of them are at the grader."""
    wanted = [
        GroupRequest(split="train", epoch=0, task=Task(id=f"t{n}"), num_samples=4, version=V0)
        for n in range(jobs // 4)
    ]
    limits = GradeLimits(max_outstanding=jobs, attempt_s=86400.0, total_s=86400.0)
    with tempfile.TemporaryDirectory() as folder, Ledger(Path(folder)) as ledger:
        adapter = Web(url, callback=CallbackServer(ledger) if callback else None)
        before_mb = resident_mb()
        async with Grading(ledger, adapter, limits, reward_range=(0.0, 1.0)) as grading:
            collecting = asyncio.create_task(Collector(play, ledger, grading=grading).collect(wanted))
            at_grader = "SELECT count(*) FROM grade_jobs WHERE handle IS NOT NULL"
            while ledger.select(at_grader) != [(jobs // 4 * 4,)]:  # noqa: ASYNC110  # the run file says so
                await asyncio.sleep(0.1)
            await asyncio.sleep(age)
            used_s, started = processor_s(), time.monotonic()
            await asyncio.sleep(seconds)
            part = (processor_s() - used_s) / (time.monotonic() - started)
            grown_mb = resident_mb() - before_mb
            collecting.cancel()
            await asyncio.gather(collecting, return_exceptions=True)
    return {"memory_mb": round(grown_mb, 1), "processor_percent": round(100 * part, 2)}


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def processor_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--age", type=float, default=60.0)
    parser.add_argument("--callback", action="store_true")
    asked = parser.parse_args()
    ours, theirs = multiprocessing.Pipe()
    service = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs,))
    service.start()
    url = f"http://127.0.0.1:{ours.recv()}/jobs"
    found = asyncio.run(measure(url, asked.jobs, asked.seconds, asked.age, asked.callback))
    ours.send("end")
    polls = ours.recv()
    service.join()
    print(json.dumps({"jobs": asked.jobs, "callback": asked.callback, "polls_in_all": polls, **found}))


if __name__ == "__main__":
    main()
