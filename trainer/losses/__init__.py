"""Loss functions, one file each: `ppo_clip.py` holds the class `PpoClip`, named "ppo_clip" in a recipe.

A new loss is a new file here: a frozen dataclass whose fields are its options, called with `TokenTerms`.
What else it may say of itself is in `terms.Loss`. Ours import without torch: they call tensors' own methods.
"""

import dataclasses
import importlib
import pkgutil
from typing import Any, cast

from ..objective.terms import Loss, traits


def loss_names() -> list[str]:
    """The losses in this folder.

    >>> "ppo_clip" in loss_names()
    True
    """
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load_loss(name: str, **options: Any) -> Loss:
    """The loss of that name, or the class at "module:Class". A wrong name or option is a `ValueError`.

    >>> traits(load_loss("dr_grpo")).aggregation
    'constant'
    """
    module_name, colon, class_name = name.partition(":")
    if not colon:
        if name not in loss_names():
            raise ValueError(f'unknown loss {name!r}; known: {", ".join(loss_names())}; or "module:Class"')
        module_name, class_name = f"{__name__}.{name}", name.title().replace("_", "")
    found: Any = getattr(importlib.import_module(module_name), class_name)
    known = [field.name for field in dataclasses.fields(found)]
    for option in options:
        if option not in known:
            raise ValueError(f"loss {name!r} has no option {option!r}; it has: {', '.join(known) or 'none'}")
    loss = cast(Loss, found(**options))
    traits(loss)  # what it says of itself makes sense
    return loss
