"""Where a run's numbers go besides `metrics.jsonl`: `csv.py` holds `Csv`, named "csv" in a recipe.

A new tracker is a new file here, or a class at "module:Class": called with a `RunInfo` and its options.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast


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
    module_name, colon, class_name = name.partition(":")
    if not colon:
        if name not in tracker_names():
            raise UnknownTracker(
                f'unknown tracker {name!r}; known: {", ".join(tracker_names())}; or "module:Class"'
            )
        module_name, class_name = f"{__name__}.{name}", name.title().replace("_", "")
    try:
        make: Callable[..., object] = getattr(importlib.import_module(module_name), class_name)
        return cast(Tracker, make(run, **options))
    except (TypeError, AttributeError) as error:
        raise UnknownTracker(f"tracker {name!r} with {dict(options)}: {error}") from error


__all__: Sequence[str] = ("RunInfo", "Tracker", "UnknownTracker", "open_tracker", "tracker_names")
