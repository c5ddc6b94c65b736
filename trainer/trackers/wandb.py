"""Weights & Biases. The key comes from WANDB_API_KEY or `wandb login`; `mode: offline` sends nothing."""

import hashlib
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any

from . import RunInfo


class Wandb:
    """Options go to `wandb.init`: project, entity, group, tags, mode ..."""

    def __init__(self, run: RunInfo, **options: Any) -> None:
        self._wandb: Any = import_module("wandb")
        self._info, self._options = run, options
        self._run: Any = None

    def resume(self, rows: Iterable[Mapping[str, float]]) -> None:
        folder = self._info.folder.resolve()
        settings: dict[str, Any] = {
            "project": "palaestra",
            "name": self._info.name,
            # The same run of theirs after a restart, another one for another folder.
            "id": hashlib.sha256(str(folder).encode()).hexdigest()[:16],
            "resume": "allow",
            "dir": str(folder),
            "config": dict(self._info.recipe),
            **self._options,
        }
        self._run = self._wandb.init(**settings)
        # Steps that are told again must not be dropped for being old: ours are an axis of their own.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log({**metrics, "step": step})

    def close(self) -> None:
        if self._run is not None:
            self._run.finish()
