"""Checkpoints: everything that the next optimizer step depends on, whole or not at all.

    checkpoints/step-000010/  weights.safetensors  optimizer.safetensors  state.json  manifest.json

The manifest has a SHA-256 of each other file and is written last. The folder gets its name when all of it is
on disk. No pickle is read or written.
"""

import json
import random
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

from .._torch import random_state, read_tensors, set_random_state, write_tensors
from ..errors import CorruptCheckpoint
from ..folder import bring_back, replace_folder, write_whole, writing
from ..inputs import sha256
from ..ranks.leader import AnyLearner
from .fit import expect_alpha, expect_base

_RNG = "torch_rng"
_SCORES = "scores.json"
_FILES = ("weights.safetensors", "optimizer.safetensors", "state.json")


class CheckpointWarning(UserWarning):
    """A checkpoint was passed over."""


def save_checkpoint(folder: Path, learner: AnyLearner, state: Mapping[str, Any] | None = None) -> None:
    """Write what `load_checkpoint` needs to go on bit for bit. `state`: the caller's own, as JSON.

    A kill at any moment leaves a whole folder, of what was saved before or now, or none where there was none.
    Of several ranks all call, and the first writes: any number of ranks can load it.
    """
    weights = learner.tensors()
    optimizer = {**learner.optimizer_tensors(), _RNG: random_state()}
    if not learner.is_first:
        return
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    write_tensors(weights, partial / "weights.safetensors")
    write_tensors(optimizer, partial / "optimizer.safetensors")
    counters = {
        "num_steps": learner.num_steps,
        "has_reference": learner.reference is not None,
        "base": learner.model.name_or_path,
        "base_sha256": dict(learner.base_sha256),
        "lora": None if learner.config.lora is None else asdict(learner.config.lora),
        "python_rng": random.getstate(),
        "state": dict(state or {}),
    }
    (partial / "state.json").write_text(json.dumps(counters), encoding="utf-8")
    manifest = {"version": 1, "sha256": {name: sha256(partial / name) for name in _FILES}}
    (partial / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    replace_folder(partial, folder)


def verify_checkpoint(folder: Path) -> None:
    """Raise `CorruptCheckpoint` unless every file is what the manifest says."""
    try:
        manifest: Any = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        hashes = dict[str, str](manifest["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptCheckpoint(f"{folder / 'manifest.json'} cannot be read: {error}") from error
    for name in _FILES:
        path = folder / name
        if not path.is_file():
            raise CorruptCheckpoint(f"{path} is missing")
        if sha256(path) != hashes.get(name):
            raise CorruptCheckpoint(
                f"{path} is not what was written: its SHA-256 differs from the manifest's"
            )


def load_checkpoint(folder: Path, learner: AnyLearner) -> dict[str, Any]:
    """Bring a learner of the same model and config to where it was; returns the caller's `state`.

    Raises `CorruptCheckpoint`, and `ValueError` for a learner of another model, or with another adapter.
    """
    bring_back(folder)
    verify_checkpoint(folder)
    return _take(folder, learner)


def _take(folder: Path, learner: AnyLearner) -> dict[str, Any]:
    """As `load_checkpoint`, of one that has just been verified."""
    counters = _counters(folder)
    if counters["has_reference"] and learner.reference is None:
        raise ValueError(
            f"the run of {folder} had a reference policy, which a checkpoint does not hold: call "
            "keep_reference on the model that the run started from, then load"
        )
    if counters["lora"] is not None:
        expect_alpha(counters["lora"]["alpha"], learner.config.lora, folder)
        expect_base(counters.get("base_sha256", {}), learner.model.name_or_path, folder)
    learner.load_tensors(
        folder / "weights.safetensors", folder / "optimizer.safetensors", counters["num_steps"]
    )
    set_random_state(read_tensors(folder / "optimizer.safetensors")[_RNG])
    version, internal, gauss = counters["python_rng"]
    random.setstate((version, tuple(internal), gauss))
    return cast(dict[str, Any], counters["state"])


def _counters(folder: Path) -> dict[str, Any]:
    return cast(dict[str, Any], json.loads((folder / "state.json").read_text(encoding="utf-8")))


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """The checkpoints of a run, by step.

    >>> Checkpoints(Path("runs/x/checkpoints"), keep=2).path(10).name
    'step-000010'
    """

    folder: Path
    keep: int = field(default=2, kw_only=True)
    """How many to keep; older ones are deleted after a new one is on disk."""
    keep_best: int = field(default=0, kw_only=True)
    """How many to keep beside them: those with the best scores (`rate`)."""
    run: str | None = field(default=None, kw_only=True)
    """The run's id, which each checkpoint of it holds; None: nobody asks for it."""

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:06d}"

    def steps(self) -> list[int]:
        """Steps with a checkpoint, newest last."""
        return sorted(int(path.name[5:]) for path in self.folder.glob("step-*") if path.name[5:].isdigit())

    def save(self, step: int, learner: AnyLearner, state: Mapping[str, Any] | None = None) -> None:
        """Policy version `step`, as everything else of the run numbers it, with what `state` will tell."""
        with writing(self.path(step)):
            save_checkpoint(self.path(step), learner, {"version": step, "run": self.run, **(state or {})})
        self._prune()

    def state(self, step: int) -> dict[str, Any]:
        """What `save` was told beside the learner."""
        return cast(dict[str, Any], _counters(self.path(step))["state"])

    def rate(self, step: int, score: float) -> None:
        """Say how good a checkpoint is: more is better."""
        path = self.folder / _SCORES
        with writing(path):
            write_whole(path, json.dumps({**self.scores(), f"{step}": score}))
        self._prune()

    def scores(self) -> dict[str, float]:
        """What `rate` was told of the checkpoints that are there, by step."""
        try:
            told: dict[str, float] = json.loads((self.folder / _SCORES).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        return {step: score for step, score in told.items() if self.path(int(step)).is_dir()}

    def best(self) -> list[int]:
        """The best rated, `keep_best` of them, the best last; of two that are as good, the later one."""
        ranked = sorted((score, int(step)) for step, score in self.scores().items())
        return [step for _, step in ranked[max(0, len(ranked) - self.keep_best) :]]

    def _prune(self) -> None:
        best = self.best()
        for old in self.steps()[: -self.keep]:
            if old not in best:
                shutil.rmtree(self.path(old))

    def latest_good(self) -> int | None:
        """The newest step whose checkpoint is whole; warns of each one passed over. None without any."""
        for step in reversed(self.steps()):
            try:
                verify_checkpoint(self.path(step))
            except CorruptCheckpoint as error:
                warnings.warn(
                    f"{error}; going back to the checkpoint before", CheckpointWarning, stacklevel=2
                )
            else:
                return step
        return None

    def restore(self, learner: AnyLearner) -> int:
        """Bring the learner to the latest good checkpoint; returns its step, 0 without one.

        Newer ones, which are corrupt, get the suffix ".corrupt" and do not count any more. Raises
        `CorruptCheckpoint` when there are checkpoints and none is whole, and for one of another run or
        version than its place says, before a weight has moved.
        """
        step = self.latest_good()
        if step is None:
            if self.steps():
                raise CorruptCheckpoint(
                    f"no checkpoint in {self.folder} is whole; remove them to start again"
                )
            return 0
        self._expect_own(step)
        _take(self.path(step), learner)
        for corrupt in (self.path(newer) for newer in self.steps() if newer > step):
            aside = corrupt.with_name(f"{corrupt.name}.corrupt")
            shutil.rmtree(aside, ignore_errors=True)
            corrupt.rename(aside)
        return step

    def _expect_own(self, step: int) -> None:
        """A folder that was copied or renamed is not what the run did in that step."""
        told = _counters(self.path(step))["state"]  # nothing in those from before there was such a thing
        for name, ours in (("version", step), ("run", self.run)):
            theirs = told.get(name, ours)
            if ours is not None and theirs != ours:
                raise CorruptCheckpoint(
                    f"{self.path(step)} is of {name} {theirs}, and in its place belongs {name} {ours}: it "
                    "was copied or renamed; remove it, or begin a run on it with palaestra train --continue"
                )
