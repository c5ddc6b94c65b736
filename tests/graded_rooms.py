"""What the tests of detached grading share: played episodes, a grader behind a counter, runs to kill."""

import asyncio
import os
import sqlite3
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from command import MAIN
from support import ROOT, run_async

from palaestra.agents.collector import GroupRequest
from palaestra.agents.engine import PolicyVersion
from palaestra.agents.grading.job import (
    Answer,
    GradeAdapter,
    GradeLimits,
    GradeRequest,
    Inbox,
    Running,
    Verdicts,
)
from palaestra.agents.grading.stage import Grading
from palaestra.agents.ledger import Ledger
from palaestra.agents.tokengraph import TokenGraph
from palaestra.agents.trajectory import EpisodeKey, Played, Trajectory
from palaestra.envs import (
    AssistantMessage,
    Episode,
    Outcome,
    Score,
    StopReason,
    Task,
    UserMessage,
    Workspace,
)

V0 = PolicyVersion(0)
RANGE = (0.0, 1.0)
TASK = Task(id="t", reference="the-reference")
QUICK = GradeLimits(poll_s=0.02, retry_s=0.0, attempt_s=30.0)


def fates(ledger: Ledger) -> dict[str, int]:
    """How many results came in, by what became of them."""
    return dict(ledger.select("SELECT fate, count(*) FROM grade_results GROUP BY fate"))


def key_of(task: str = "t", sample: int = 0) -> EpisodeKey:
    return EpisodeKey(epoch=0, task_id=task, sample=sample)


def played(key: EpisodeKey) -> Played:
    """Two answers; the workspace says which sample it was."""
    episode = Episode(
        task_id=key.task_id,
        seed=key.seed(0),
        messages=(UserMessage("go"), AssistantMessage("a"), UserMessage("on"), AssistantMessage("b")),
        num_opening=1,
        rewards=(0.0, 0.0),
        stop=StopReason.DONE,
        workspace=Workspace(files=(("sample", str(key.sample).encode()),)),
    )
    return Played(key=key, version=V0, episode=episode, graph=TokenGraph())


def keep(ledger: Ledger, *keys: EpisodeKey) -> None:
    """Put played episodes into a run file."""
    for key in keys:
        ledger.issue(key, V0)
        ledger.grades.keep_played(played(key))


def score(reward: float) -> Verdicts:
    """The answer of a grader for one episode."""
    return Verdicts(each=(Score(reward=reward),))


def outcome_in(ledger: Ledger) -> Outcome:
    """Of the one episode in a run file."""
    found = ledger.finished(key_of())
    assert found is not None
    return found.outcome


@asynccontextmanager
async def under_way(
    folder: Path,
    make_adapter: Callable[[Ledger], GradeAdapter],
    limits: GradeLimits = QUICK,
    *,
    task: Task = TASK,
) -> AsyncGenerator[tuple[Ledger, asyncio.Task[None]], None]:
    """A run file, and the grade of its one episode under way; a second time in a folder is a restart."""
    with Ledger(folder) as ledger:
        if not ledger.counts("train"):
            keep(ledger, key_of())
        async with Grading(ledger, make_adapter(ledger), limits, reward_range=RANGE) as grading:
            waiting = asyncio.create_task(grading.grade([key_of()], task))
            try:
                yield ledger, waiting
            finally:
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)


def graded(adapter: GradeAdapter, folder: Path, limits: GradeLimits = QUICK, *, task: Task = TASK) -> Outcome:
    """The outcome of one episode in a new run file."""

    async def main() -> Outcome:
        async with under_way(folder, lambda _: adapter, limits, task=task) as (ledger, waiting):
            await waiting
            return outcome_in(ledger)

    return run_async(main())


def requests(tasks: int, samples: int) -> list[GroupRequest]:
    return [
        GroupRequest(split="train", epoch=0, task=Task(id=f"t{n}"), num_samples=samples, version=V0)
        for n in range(tasks)
    ]


async def play_at_once(key: EpisodeKey, task: Task, version: PolicyVersion) -> Trajectory | Played:
    return played(key)


async def until(is_so: Callable[[], bool]) -> None:
    """Let the others work until they have come so far."""
    while not is_so():  # noqa: ASYNC110  # what is waited for has no event of its own
        await asyncio.sleep(0)


def sample_of(episode: Episode) -> int:
    assert episode.workspace is not None
    return int(dict(episode.workspace.files)["sample"])


@dataclass(slots=True)
class Held:
    """A grader that gives a score, 1 for even samples, when the test opens its gate."""

    gate: asyncio.Event = field(default_factory=asyncio.Event)
    num_asked: int = 0

    async def grade(self, task: Task, episode: Episode, workspace: Workspace | None) -> Score:
        self.num_asked += 1
        await self.gate.wait()
        return Score(reward=float(sample_of(episode) % 2 == 0), turns=(0.0, 1.0), components={"even": 0.5})


@dataclass
class Counter:
    """A grading service at the other end of a counter: it takes requests, and answers as it is told to."""

    answers: Callable[[GradeRequest, int], Answer] = lambda request, polls: Running()
    """(request, how often it was asked for before) -> answer."""
    breaks: Sequence[Exception] = ()
    """What the first submissions raise, though they are taken."""
    is_durable: bool = True
    poll_s: float | None = None
    taken: list[GradeRequest] = field(default_factory=list[GradeRequest])
    polled: list[str] = field(default_factory=list[str])
    released: list[str] = field(default_factory=list[str])

    async def open(self, inbox: Inbox) -> None: ...
    async def close(self) -> None: ...

    async def submit(self, request: GradeRequest) -> str:
        self.taken.append(request)
        if len(self.taken) <= len(self.breaks):
            raise self.breaks[len(self.taken) - 1]
        return request.key

    async def poll(self, handle: str) -> Answer:
        before = self.polled.count(handle)
        self.polled.append(handle)
        request = next((each for each in self.taken if each.key == handle), None)
        return self.answers(request or self.taken[0], before)

    async def release(self, handle: str) -> None:
        self.released.append(handle)


def start_eval(recipe: Path) -> "subprocess.Popen[bytes]":
    """`palaestra eval` by the oracle, in a process to kill; it prints to `log` beside the recipe."""
    with (recipe.parent / "log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-P", "-c", MAIN, "eval", str(recipe), "--policy", "oracle"],
            cwd=recipe.parent,
            env=os.environ | {"PYTHONPATH": str(ROOT / "tests")},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )


def rows(run: Path, query: str) -> list[Any]:
    """Of the run file, also while the run writes it; none before there is one."""
    try:
        with closing(sqlite3.connect(f"file:{run / 'run.sqlite'}?mode=ro", uri=True)) as db:
            return db.execute(query).fetchall()
    except sqlite3.OperationalError:  # no file, or no tables yet
        return []
