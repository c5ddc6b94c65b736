"""Datasets that people bring: rows read, checked, filtered, and made into tasks. `docs/data.md` shows it."""

from .problem import DatasetError, Problem
from .reading import iter_tasks, read_rows, read_tasks
from .row import Row

__all__ = ["DatasetError", "Problem", "Row", "iter_tasks", "read_rows", "read_tasks"]
