"""Environments by name, through plain Python entry points (group "palaestra.envs")."""

import importlib
from importlib.metadata import entry_points
from typing import Any, TypeGuard

from .env import Env

GROUP = "palaestra.envs"


class UnknownEnv(ValueError):
    """No environment has that name. The message lists the names that exist."""


def env_names() -> list[str]:
    """The names of all installed environments."""
    return sorted(point.name for point in entry_points(group=GROUP))


def load_env(name: str) -> type[Env[Any]]:
    """The environment class called `name`, or at "module:Class".

    >>> load_env("arithmetic").__name__
    'Arithmetic'
    """
    if ":" in name:
        found: object = _from_path(name)
    else:
        points = [point for point in entry_points(group=GROUP) if point.name == name]
        if not points:
            known = ", ".join(env_names()) or "none"
            raise UnknownEnv(f'unknown env {name!r}; installed: {known}; or name a class as "module:Class"')
        found = points[0].load()
    if not _is_env(found):
        raise UnknownEnv(f"env {name!r} is {found!r}, which is not a subclass of palaestra.envs.Env")
    return found


def _is_env(found: object) -> TypeGuard[type[Env[Any]]]:
    return isinstance(found, type) and issubclass(found, Env)


def _from_path(path: str) -> Any:
    module, _, attribute = path.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UnknownEnv(f"env {path!r} cannot be loaded: {error}; is its folder on PYTHONPATH?") from error
