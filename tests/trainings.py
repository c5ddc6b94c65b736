"""Whole training runs by `palaestra train`, in processes that a test can stop at any moment.

    run = Training(folder, recipe)
    run.start().wait()                                           # from start to end
    run.start(kill_at=("checkpoints", 5)).wait()                 # kill -9 at the fifth file event in there
    run.start().stop_when(lambda: run.num_finished("train") >= 3)   # a signal when the run file says so

The processes are forks of a server that has imported everything: a start costs no seconds of imports.
"""

import json
import multiprocessing
import os
import signal
import sqlite3
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from command import SHAPE

from palaestra.agents.engines.vllm_server import free_port
from palaestra.trainer._torch import read_tensors

TASKS = {"config": {"max_terms": 2, "max_digits": 1}, "size": 10, "instructions": ""}
TINY_RECIPE: dict[str, Any] = {
    "name": "tiny",
    "seed": 3,
    "deterministic": True,
    "threads": 1,
    "env": {"id": "trained_envs:Sums", "tasks": TASKS, "held_out": 4, "budget": {"max_turns": 3}},
    "model": {"tool_format": "react", "describe_tools": False, "tiny": {**SHAPE, "max_context": 160}},
    "engine": {"slots": 8, "max_in_flight": 4},
    "sampling": {"max_tokens": 32},
    "warm_start": {"demonstrations": 6, "steps": 20, "batch_size": 4, "optimizer": {"lr": 1e-2}},
    "optimizer": {"lr": 3e-3, "schedule": "cosine"},
    "grpo": {"steps": 4, "tasks_per_step": 2, "group_size": 2, "updates_per_step": 2},
    "evaluation": {"every": 2},
    "checkpoint": {"every": 2},
}
"""Six training tasks, eight groups: the last step begins a second epoch."""

Key = tuple[str, int, str, int, int]
KEY = "split, epoch, task_id, sample, attempt"
HAS_ENDED = "state NOT IN ('issued', 'played')"

LIMIT_S = 600.0
"""Longest that one start of a run may take."""

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["palaestra.cli.main", "palaestra.trainer.run", "reasoning_gym"])


@dataclass(frozen=True, slots=True)
class Training:
    """A run of a recipe in `folder`/runs."""

    folder: Path
    recipe: dict[str, Any]
    ranks: int = 1
    """Processes that share the learner."""

    @property
    def run(self) -> Path:
        """The run's folder."""
        return self.folder / "runs" / str(self.recipe["name"])

    def command(self) -> list[str]:
        """The arguments of `palaestra` that start the run, or go on with it."""
        path = self.folder / f"{self.recipe['name']}.yaml"
        path.write_text(yaml.safe_dump(self.recipe | {"runs_dir": str(self.folder / "runs")}))
        resume = ["--resume"] if (self.run / "recipe.yaml").exists() else []
        return ["train", str(path), *resume]

    def start(self, kill_at: tuple[str, int] | None = None) -> "Started":
        """Start it, or go on with it. `kill_at`: (where in the run's folder, number of the file event)."""
        kill = None if kill_at is None else (str(self.run / kill_at[0]), kill_at[1])
        command, port = self.command(), free_port(0)
        processes: list[Any] = []
        for rank in range(self.ranks):
            environment = {} if self.ranks == 1 else ranked(rank, self.ranks, port)
            arguments = (command, str(self.folder / "log.txt"), kill if rank == 0 else None, environment)
            processes.append(_FORKS.Process(target=_main, args=arguments))
            processes[-1].start()
        return Started(self, *processes)

    def num_finished(self, split: str) -> int:
        """Episodes that have ended, of a split or of all ("%")."""
        sql = f"SELECT count(*) FROM episodes WHERE split LIKE ? AND {HAS_ENDED}"
        return next((count for (count,) in self.query(sql, split)), 0)

    def query(self, sql: str, *values: object) -> list[Any]:
        """Rows of the run file, also while the run writes it; none before there is one."""
        try:
            with closing(sqlite3.connect(f"file:{self.run / 'run.sqlite'}?mode=ro", uri=True)) as db:
                return db.execute(sql, values).fetchall()
        except sqlite3.OperationalError:  # no file, or no tables yet
            return []

    def log(self) -> str:
        """What all starts printed."""
        return (self.folder / "log.txt").read_text(encoding="utf-8")


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """All that a finished run has to show but the seconds that it took."""

    episodes: dict[Key, tuple[str, str, str]]
    """Outcome, tokens and messages."""
    steps: list[tuple[int, dict[str, Any]]]
    metrics: list[dict[str, Any]]
    supervised: list[dict[str, Any]]
    """Of the steps of the warm start."""
    summary: dict[str, Any]


def result(run: Training) -> Result:
    rows = run.query(f"SELECT {KEY}, outcome, graph, json_extract(episode, '$.messages') FROM episodes")
    steps = [(step, json.loads(record)) for step, record in run.query("SELECT * FROM steps ORDER BY step")]
    summary: dict[str, Any] = json.loads((run.run / "summary.json").read_text())
    return Result(
        episodes={row[:5]: row[5:] for row in rows},
        steps=[(step, record | {"metrics": timeless(record["metrics"])}) for step, record in steps],
        metrics=lines_of(run.run / "metrics.jsonl"),
        supervised=lines_of(run.run / "sft" / "metrics.jsonl"),
        summary={name: found for name, found in summary.items() if name not in ("name", "seconds")},
    )


def lines_of(path: Path) -> list[dict[str, Any]]:
    """Of a file of metrics; none where there is none."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [timeless(json.loads(line)) for line in lines]


def timeless(metrics: dict[str, Any]) -> dict[str, Any]:
    """Without what a clock had a part in."""
    return {name: value for name, value in metrics.items() if not name.endswith("_s") and name != "mfu"}


def check_same(run: Training, reference: Training) -> None:
    """Not a bit, an episode or a figure apart."""
    assert result(run) == result(reference)
    folders = [
        path.name for path in (reference.run / "warm-start", reference.run / "policy") if path.exists()
    ]
    assert "policy" in folders
    for folder in folders:
        (name,) = (path.name for path in (reference.run / folder).glob("*.safetensors"))
        ours, theirs = read_tensors(run.run / folder / name), read_tensors(reference.run / folder / name)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[tensor], theirs[tensor]) for tensor in ours), folder


def finished(run: Training) -> dict[Key, tuple[float, float]]:
    """When each episode that has ended was issued and finished."""
    rows = run.query(f"SELECT {KEY}, issued_at, finished_at FROM episodes WHERE {HAS_ENDED}")
    return {row[:5]: row[5:] for row in rows}


def check_whole(run: Training, steps: int) -> None:
    """Every step stands once where it should, and no sample was trained twice."""
    found = result(run)
    assert (
        [step for step, _ in found.steps]
        == [line["step"] for line in found.metrics]
        == [*range(1, steps + 1)]
    )
    trained = [tuple(key[:3]) for _, record in found.steps for group in record["groups"] for key in group]
    assert len(set(trained)) == len(trained)
    updated = {
        tuple(row["key"][:3]) for _, r in found.steps for update in r["updates"] for row in update["rows"]
    }
    assert updated and updated <= set(trained)
    assert all(outcome is not None for outcome, *_ in found.episodes.values())


def go_on(run: Training, stop: Callable[[Training], int]) -> int:
    """Start the run once more and stop it; what had ended before is as it was."""
    before = finished(run)
    code = stop(run)
    after = finished(run)
    assert {key: after.get(key) for key in before} == before
    return code


def after(split: str, number: int) -> Callable[[Training], int]:
    """kill -9 as soon as so many episodes of a split have ended."""
    return lambda run: run.start().stop_when(lambda: run.num_finished(split) >= number)


def inside(where: str, number: int) -> Callable[[Training], int]:
    """kill -9 at a file event."""
    return lambda run: run.start(kill_at=(where, number)).wait()


def ranked(rank: int, world: int, port: int) -> dict[str, str]:
    """What torchrun tells the processes that it starts."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
    return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)} | {k: str(v) for k, v in numbers.items()}


class Started:
    """One start of a run: its process, and the ranks that learn with it."""

    def __init__(self, training: Training, process: Any, *followers: Any) -> None:
        self._training, self._process, self.followers = training, process, followers

    def wait(self) -> int:
        """The exit code of the first; -9 after a kill. The others end with it."""
        try:
            return self._wait()
        finally:
            for each in self.followers:
                each.join(30)
                if each.exitcode is None:
                    each.kill()
                    raise AssertionError(f"a rank outlived the run:\n{self._training.log()}")

    def _wait(self) -> int:
        self._process.join(LIMIT_S)
        if self._process.exitcode is None:
            self._process.kill()
            raise AssertionError(f"the run did not end:\n{self._training.log()}")
        return int(self._process.exitcode)

    def stop_when(self, is_time: Callable[[], bool], number: int = signal.SIGKILL) -> int:
        """Send a signal as soon as `is_time()`, or not at all when the run ends before; the exit code."""
        until = time.monotonic() + LIMIT_S
        while self._process.is_alive() and time.monotonic() < until:
            if is_time():
                os.kill(self._process.pid, number)  # not reaped before `wait`: the pid is still its own
                break
            time.sleep(0.002)
        return self.wait()


def _main(
    arguments: list[str], log: str, kill_at: tuple[str, int] | None, environment: dict[str, str]
) -> None:
    """The forked process."""
    os.environ.update(environment)
    from palaestra.cli.main import main

    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.argv = ["palaestra", *arguments]
    if kill_at is not None:
        _kill_at(*kill_at)
    main()


def _kill_at(where: str, number: int) -> None:
    """Die just before the nth file or folder whose path begins with `where` is written, moved or removed."""
    seen = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event not in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate"):
            return
        if event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR):
            return
        if not str(arguments[0]).startswith(where):
            return
        seen += 1
        if seen == number:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
