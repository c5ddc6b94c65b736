"""Loss functions, one file each: `ppo_clip.py` holds the class `PpoClip`, named "ppo_clip" in a recipe.

A new loss is a new file here: a frozen dataclass whose fields are its options, called with `TokenTerms`.
What else it may say of itself is in `terms.Loss`. Ours import without torch: they call tensors' own methods.
"""

import pkgutil
from typing import Any

from ..named import make_named
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
    loss: Loss = make_named("loss", name, __name__, loss_names(), options)
    traits(loss)  # what it says of itself makes sense
    return loss
