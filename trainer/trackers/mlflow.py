"""MLflow. Where its server is comes from MLFLOW_TRACKING_URI, or from `tracking_uri`."""

from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any, cast

from . import RunInfo

_PARAM_CHARS = 500
"""The longest value of a parameter that every version takes."""


class Mlflow:
    def __init__(
        self, run: RunInfo, *, experiment: str = "palaestra", tracking_uri: str | None = None
    ) -> None:
        client: Any = import_module("mlflow.tracking").MlflowClient
        self._client: Any = client(tracking_uri)
        self._info, self._experiment = run, experiment
        self._remembered = run.folder / "mlflow_run_id"
        self._run_id = ""

    def resume(self, rows: Iterable[Mapping[str, float]]) -> None:
        if self._remembered.exists():
            self._run_id = self._remembered.read_text(encoding="utf-8")
            self._client.update_run(self._run_id, status="RUNNING")
            return
        found = self._client.get_experiment_by_name(self._experiment)
        number = self._client.create_experiment(self._experiment) if found is None else found.experiment_id
        self._run_id = self._client.create_run(number, run_name=self._info.name).info.run_id
        self._remembered.write_text(self._run_id, encoding="utf-8")
        for name, value in _flat(self._info.recipe):
            self._client.log_param(self._run_id, name, str(value)[:_PARAM_CHARS])

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._client.log_metric(self._run_id, name, value, step=step)

    def close(self) -> None:
        if self._run_id:
            self._client.set_terminated(self._run_id)


def _flat(fields: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, object]]:
    """("grpo.steps", 3), ..."""
    for name, value in fields.items():
        if isinstance(value, dict) and value:
            yield from _flat(cast(dict[str, Any], value), f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
