"""The supervised stage: its numbers, and what is left when it is stopped."""

import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from support import run_async
from trainer_builders import make_llama_learner, random_rows

from palaestra.trainer.batches.rows import Row
from palaestra.trainer.config import LearnerConfig, LoraConfig
from palaestra.trainer.interrupt import Interrupt, Interrupted
from palaestra.trainer.learner import Learner
from palaestra.trainer.recipe import Recipe
from palaestra.trainer.reporting.progress import Silent
from palaestra.trainer.schedule import OptimizerConfig
from palaestra.trainer.supervised import SupervisedStage, stage_folder
from palaestra.trainer.warm_start import demonstration_row


def shown() -> list[Row]:
    return [
        demonstration_row(row.key, row.tokens.ids, row.tokens.mask)
        for row in random_rows(5)
        if row.key.sample % 3
    ]


def recipe(folder: Path, **section: Any) -> Recipe:
    fields = {
        "name": "x",
        "runs_dir": folder,
        "env": {"id": "arithmetic"},
        "warm_start": {"steps": 7, "batch_size": 2} | section,
        "checkpoint": {"every": 2, "keep": 1},
        "trackers": ["csv"],
    }
    return Recipe.model_validate(fields)


class Watching(Silent):
    """Sends a signal to this process when a step is done."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.stop_at, self.notes, self.shown = stop_at, list[str](), list[float]()
        self._done = 0

    def advance(self, done: int = 1) -> None:
        self._done += done
        if self._done == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def step(self, metrics: Any) -> None:
        self.shown.append(metrics["step"])


def run(settings: Recipe, progress: Watching, lora: LoraConfig | None = None) -> Learner:
    """One start of the stage, on a model as it was before training."""
    learner = make_llama_learner(LearnerConfig(optimizer=OptimizerConfig(lr=1e-2), lora=lora))
    assert settings.warm_start is not None
    section = settings.warm_start

    async def go() -> None:
        with Interrupt() as interrupt:
            stage = SupervisedStage(
                recipe=settings,
                section=section,
                learner=learner,
                demonstrations=shown(),
                progress=progress,
                interrupt=interrupt,
            )
            await stage.run()

    run_async(go())
    return learner


def lines(settings: Recipe) -> list[dict[str, Any]]:
    path = stage_folder(settings) / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def timeless(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if not name.endswith("_s")} for row in rows]


@pytest.mark.parametrize("lora", [None, LoraConfig(rank=4)], ids=["full", "lora"])
def test_a_signal_leaves_a_checkpoint_from_which_the_stage_goes_on_bit_for_bit(
    tmp_path: Path, lora: LoraConfig | None
) -> None:
    whole, stopped = recipe(tmp_path / "whole"), recipe(tmp_path / "stopped")
    expected = run(whole, Watching(), lora)
    with pytest.raises(Interrupted):
        run(stopped, Watching(stop_at=3), lora)
    last = lines(stopped)[-1]["step"]
    assert 3 <= last < 7
    (kept,) = (stage_folder(stopped) / "checkpoints").glob("step-*")
    assert kept.name == f"step-{last:06d}"
    progress = Watching()
    found = run(stopped, progress, lora)
    assert progress.notes == [f"warm start: going on after step {last}"] and progress.shown[-1] == 6
    assert timeless(lines(stopped)) == timeless(lines(whole))
    assert all(torch.equal(found.parameters[name], p) for name, p in expected.parameters.items())
    table = (stage_folder(stopped) / "steps.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in table] == ["step", *map(str, range(1, 8))]


def test_the_numbers_of_a_supervised_step_are_there(tmp_path: Path) -> None:
    settings = recipe(tmp_path)
    run(settings, Watching())
    first, *_, last = lines(settings)
    assert first.keys() >= {"step", "sft_loss", "lr", "grad_norm", "skipped", "tokens_per_s", "flops_per_s"}
    assert last["sft_loss"] < first["sft_loss"] and first["grad_norm"] > 0 and first["skipped"] == 0


def test_a_stage_that_was_down_to_its_target_takes_no_step_more(tmp_path: Path) -> None:
    settings = recipe(tmp_path, target_loss=100.0)
    run(settings, Watching())
    learner = run(settings, Watching())
    assert [line["step"] for line in lines(settings)] == [1] and learner.num_steps == 1
