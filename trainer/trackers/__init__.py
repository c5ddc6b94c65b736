"""Where a run's numbers go besides `metrics.jsonl`: `csv.py` holds `Csv`, named "csv" in a recipe.

A new tracker is a new file here, or a class at "module:Class": called with a `RunInfo` and its options.
"""

import inspect
import pkgutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from ..named import find_class


@dataclass(frozen=True, kw_only=True, slots=True)
class RunInfo:
    """What a tracker knows of the run."""

    name: str
    folder: Path
    recipe: Mapping[str, Any]
    """Resolved, without secrets."""


class Tracker(Protocol):
    """One place for numbers. Called from a worker thread, one call at a time; may raise anything."""

    def resume(self, rows: Iterable[Mapping[str, float]]) -> None:
        """Once, first: the steps that hold. Whatever was told after them is told again."""
        ...

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Numbers of a step, finite all of them."""
        ...

    def close(self) -> None:
        """Send what is left."""
        ...


_NO_TRACKERS = ("aliases", "several")


class UnknownTracker(ValueError):
    """No such tracker, or not with these options. The message says which there are."""


def tracker_names() -> list[str]:
    """The trackers in this folder.

    >>> "csv" in tracker_names()
    True
    """
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name not in _NO_TRACKERS)


def open_tracker(name: str, run: RunInfo, options: Mapping[str, Any]) -> Tracker:
    """The tracker of that name. Raises `UnknownTracker`, and ModuleNotFoundError without its package."""
    make = find_tracker(name, options)
    try:
        return cast(Tracker, make(run, **options))
    except TypeError as error:
        raise _not_so(name, options, error) from error


def find_tracker(name: str, options: Mapping[str, Any]) -> Callable[..., object]:
    """What makes it. Raises `UnknownTracker` for one that there is not, or that has no such options."""
    try:
        make: Callable[..., object] = find_class("tracker", name, __name__, tracker_names())
    except ValueError as error:
        raise UnknownTracker(str(error)) from error
    except (AttributeError, TypeError) as error:
        raise UnknownTracker(f"tracker {name!r}: {error}") from error
    try:
        inspect.signature(make).bind(None, **options)
    except TypeError as error:
        raise _not_so(name, options, error) from error
    except ValueError:  # one that says nothing of its arguments
        pass
    return make


def _not_so(name: str, options: Mapping[str, Any], error: TypeError) -> UnknownTracker:
    return UnknownTracker(f"tracker {name!r} with {dict(options)}: {error}")


__all__: Sequence[str] = (
    "RunInfo",
    "Tracker",
    "UnknownTracker",
    "find_tracker",
    "open_tracker",
    "tracker_names",
)
