"""Classes that a recipe names: one of a folder of ours, or "module:Class" of somebody else's."""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from ..envs.options import from_options


def find_class(what: str, name: str, home: str, known: Sequence[str]) -> Any:
    """The class behind a name: `PpoClip` in `ppo_clip.py` of the package `home`, or that at "module:Class".

    Raises `ValueError` for a name that is not `known`.
    """
    module, colon, kind = name.partition(":")
    if not colon:
        if name not in known:
            raise ValueError(f'unknown {what} {name!r}; known: {", ".join(known)}; or "module:Class"')
        module, kind = f"{home}.{name}", name.title().replace("_", "")
    return getattr(importlib.import_module(module), kind)


def make_named(what: str, name: str, home: str, known: Sequence[str], options: Mapping[str, Any]) -> Any:
    """An object of that class, its fields from a recipe. Raises `ValueError` for a wrong name, option or
    value."""
    kind = find_class(what, name, home, known)
    try:
        return from_options(kind, options)
    except ValueError as error:
        raise ValueError(f"{what} {name!r}: {error}") from error
