"""TensorBoard's event files, in `tensorboard/` of the run's folder: `tensorboard --logdir runs`."""

from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any

from . import RunInfo


class Tensorboard:
    def __init__(self, run: RunInfo) -> None:
        import_module("tensorboard")  # by its own name where it is missing
        self._folder = run.folder / "tensorboard"
        self._writer: Any = None

    def resume(self, rows: Iterable[Mapping[str, float]]) -> None:
        last = max((int(row["step"]) for row in rows), default=0)
        writers = import_module("torch.utils.tensorboard")
        self._writer = writers.SummaryWriter(str(self._folder), purge_step=last + 1)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
