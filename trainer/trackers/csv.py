"""`steps.csv` in the run's folder: a line a step, a column a metric, for a spreadsheet."""

import csv
from collections.abc import Iterable, Mapping

from . import RunInfo


class Csv:
    """The file is written anew when a metric appears for the first time: a column needs a header."""

    def __init__(self, run: RunInfo) -> None:
        self._path = run.folder / "steps.csv"
        self._rows: dict[int, dict[str, float]] = {}
        self._columns: list[str] = ["step"]

    def resume(self, rows: Iterable[Mapping[str, float]]) -> None:
        for row in rows:
            self._add(int(row["step"]), row)
        self._write_all()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        before = len(self._columns), len(self._rows)
        self._add(step, metrics)
        if (len(self._columns), len(self._rows) - 1) != before:
            self._write_all()
            return
        with self._path.open("a", encoding="utf-8", newline="") as file:
            csv.DictWriter(file, self._columns).writerow(self._rows[step])

    def close(self) -> None:
        pass

    def _add(self, step: int, metrics: Mapping[str, float]) -> None:
        self._columns += [name for name in metrics if name not in self._columns]
        self._rows.setdefault(step, {"step": step}).update(metrics)

    def _write_all(self) -> None:
        partial = self._path.with_suffix(".partial")
        with partial.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(self._rows[step] for step in sorted(self._rows))
        partial.replace(self._path)
