"""Graders by name: a preset, or an object in a file or a module."""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import no_exit, where
from .function import grader
from .grading import Grader
from .presets import PRESETS, preset


class UnknownGrader(ValueError):
    """Nothing has that name, it breaks, or it is no grader. The message has the cure."""


def load_grader(name: str) -> Grader:
    """A preset, or what stands at "my_rewards.py:score" or "my_package.rewards:score": a grader, a class that
    makes one without arguments, or a function of task and episode.

    >>> load_grader("numeric")
    Numeric(prefix=None, rel_tol=0.0, abs_tol=None)
    """
    if name in PRESETS:
        return preset(name)
    if ":" not in name:
        raise UnknownGrader(
            f'no grader {name!r}; presets: {", ".join(PRESETS)}; or name one as "my_rewards.py:score"'
        )
    found = load_object(name)
    has_grade = callable(getattr(found, "grade", None))
    made: Any = _guarded(name, found) if has_grade and isinstance(found, type) else found
    if has_grade:
        return _as_grader(made)
    if callable(made):
        function: Any = made
        return grader(function)
    raise UnknownGrader(f"{name} is {found!r:.200}; it must be a grader, or a function of task and episode")


def _as_grader(found: Any) -> Grader:
    return found  # type: ignore[no-any-return]  # it has `grade`; what that returns is checked at each call


def load_object(name: str) -> Any:
    """What stands at "folder/file.py:name" or "module:name". Raises `UnknownGrader`."""
    place, _, attribute = name.rpartition(":")
    if place.endswith(".py"):
        module = _guarded(name, lambda: _from_file(Path(place)))
    else:
        module = _guarded(name, lambda: importlib.import_module(place))
    if not hasattr(module, attribute):
        raise UnknownGrader(f"{name}: {place} has no {attribute!r}")
    return getattr(module, attribute)


def _from_file(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses and pickle look for it there
    spec.loader.exec_module(module)
    return module


def _guarded(name: str, load: Callable[[], Any]) -> Any:
    try:
        with no_exit():
            return load()
    except Exception as error:  # every kind: an import runs other people's code
        why = f"{type(error).__name__}: {error}, {where(error)}"
        raise UnknownGrader(f"{name} cannot be loaded: {why}") from error
