"""Environments by name, through plain Python entry points (group "palaestra.envs")."""

import importlib
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any, TypeGuard

from .env import Env
from .errors import no_exit, where

GROUP = "palaestra.envs"


class UnknownEnv(ValueError):
    """No environment has that name, or its module breaks. The message lists the names that exist."""


def env_names() -> list[str]:
    """The names of all installed environments."""
    return sorted(point.name for point in entry_points(group=GROUP))


def load_env(name: str) -> type[Env[Any]]:
    """The environment class called `name`, or at "module:Class".

    >>> load_env("arithmetic").__name__
    'Arithmetic'
    """
    if ":" in name:
        found = _from_path(name)
    else:
        points = [point for point in entry_points(group=GROUP) if point.name == name]
        if not points:
            known = ", ".join(env_names()) or "none"
            raise UnknownEnv(f'unknown env {name!r}; installed: {known}; or name a class as "module:Class"')
        found = _imported(name, points[0].load)
    if not _is_env(found):
        raise UnknownEnv(f"env {name!r} is {found!r}, which is not a subclass of palaestra.envs.Env")
    return found


def _is_env(found: object) -> TypeGuard[type[Env[Any]]]:
    return isinstance(found, type) and issubclass(found, Env)


def _from_path(path: str) -> object:
    module, _, attribute = path.partition(":")
    if not all(part.isidentifier() for part in module.split(".")):
        raise UnknownEnv(f'env {path!r} names no module; write "module:Class", such as "my_envs:Lengths"')
    try:
        found = _imported(path, lambda: importlib.import_module(module))
    except ModuleNotFoundError as error:
        raise UnknownEnv(f"env {path!r} cannot be loaded: {error}; is its folder on PYTHONPATH?") from error
    if not hasattr(found, attribute):
        raise UnknownEnv(f"env {path!r} cannot be loaded: {module} has no {attribute!r}")
    return getattr(found, attribute)


def _imported(name: str, load: Callable[[], object]) -> object:
    try:
        with no_exit():
            return load()
    except ModuleNotFoundError:
        raise  # perhaps of an extra, which the command line names
    except Exception as error:  # every kind: an import runs other people's code
        why = f"{type(error).__name__}: {error}, {where(error)}"
        raise UnknownEnv(f"env {name!r} cannot be loaded: {why}") from error
