"""Loss functions, one file each: `ppo_clip.py` holds the class `PpoClip`, named "ppo_clip" in a recipe.

A new loss is a new file here: a frozen dataclass whose fields are its options, called with `TokenTerms`.
What else it may say of itself is in `terms.Loss`.
"""

import ast
import dataclasses
import importlib
import pkgutil
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:  # recipes check names without loading torch
    from ..objective.terms import Loss


def loss_names() -> list[str]:
    """The losses in this folder.

    >>> "ppo_clip" in loss_names()
    True
    """
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def usual_aggregation(name: str, **options: Any) -> str:
    """What the loss of that name averages over unless a recipe says otherwise; `ValueError` as `load_loss`.

    >>> usual_aggregation("dr_grpo")
    'constant'

    A loss of this folder is not loaded for it, and torch with it, where its source says as much.
    """
    said = None if options or name not in loss_names() else _said_aggregation(name)
    if said is not None:
        return said
    loss = load_loss(name, **options)
    from ..objective.terms import traits

    return traits(loss).aggregation


def _said_aggregation(name: str) -> str | None:
    """As the class in a loss's file says; None: the source does not tell, as it inherits."""
    spec = find_spec(f"{__name__}.{name}")
    if spec is None or spec.origin is None:
        return None
    body = ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body
    for found in body:
        if not isinstance(found, ast.ClassDef) or found.name != _class_name(name):
            continue
        for line in found.body:
            match line:
                case ast.AnnAssign(target=ast.Name(id="aggregation"), value=ast.Constant(value=str(said))):
                    return said
                case _:
                    pass
        return "token" if not found.bases and "aggregation" not in ast.dump(found) else None
    return None


def _class_name(name: str) -> str:
    return name.title().replace("_", "")


def load_loss(name: str, **options: Any) -> "Loss":
    """The loss of that name, or the class at "module:Class". A wrong name or option is a `ValueError`."""
    module_name, colon, class_name = name.partition(":")
    if not colon:
        if name not in loss_names():
            raise ValueError(f'unknown loss {name!r}; known: {", ".join(loss_names())}; or "module:Class"')
        module_name, class_name = f"{__name__}.{name}", _class_name(name)
    found: Any = getattr(importlib.import_module(module_name), class_name)
    known = [field.name for field in dataclasses.fields(found)]
    for option in options:
        if option not in known:
            raise ValueError(f"loss {name!r} has no option {option!r}; it has: {', '.join(known) or 'none'}")
    loss = cast("Loss", found(**options))
    from ..objective.terms import traits

    traits(loss)  # what it says of itself makes sense
    return loss
