"""GRPO: trajectories to gradients to published weights.

The names below are those of the learner without the loop (`docs/learner.md`). Each is loaded when it is asked
for, and torch with it: `import palaestra.trainer` loads neither.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .batches.rows import Aggregation, Batch, Row, make_batch, split_batch
    from .config import LearnerConfig, LoraConfig
    from .learner import Learner
    from .objective.correction import Correction
    from .objective.kl import KlPenalty
    from .recipe import Recipe, TinyModel
    from .recipe_file import RecipeError, load_recipe
    from .reporting.reports import LossReport, StepReport
    from .run import train
    from .sampling import sample, sampled_row
    from .schedule import OptimizerConfig
    from .warm_start import demonstration_row
    from .weights.checkpoint import load_checkpoint, save_checkpoint
    from .weights.model import load_model
    from .weights.tiny import make_tiny_model

__all__ = [
    "Aggregation",
    "Batch",
    "Correction",
    "KlPenalty",
    "Learner",
    "LearnerConfig",
    "LoraConfig",
    "LossReport",
    "OptimizerConfig",
    "Recipe",
    "RecipeError",
    "Row",
    "StepReport",
    "TinyModel",
    "demonstration_row",
    "load_checkpoint",
    "load_model",
    "load_recipe",
    "make_batch",
    "make_tiny_model",
    "sample",
    "sampled_row",
    "save_checkpoint",
    "split_batch",
    "train",
]

_HOMES = {
    "batches.rows": ("Aggregation", "Batch", "Row", "make_batch", "split_batch"),
    "config": ("LearnerConfig", "LoraConfig"),
    "learner": ("Learner",),
    "objective.correction": ("Correction",),
    "objective.kl": ("KlPenalty",),
    "recipe": ("Recipe", "TinyModel"),
    "recipe_file": ("RecipeError", "load_recipe"),
    "reporting.reports": ("LossReport", "StepReport"),
    "run": ("train",),
    "sampling": ("sample", "sampled_row"),
    "schedule": ("OptimizerConfig",),
    "warm_start": ("demonstration_row",),
    "weights.checkpoint": ("load_checkpoint", "save_checkpoint"),
    "weights.model": ("load_model",),
    "weights.tiny": ("make_tiny_model",),
}


if not TYPE_CHECKING:  # a type checker reads the imports above, and then knows which names there are

    def __getattr__(name: str) -> Any:
        for home, names in _HOMES.items():
            if name in names:
                globals()[name] = found = getattr(import_module(f".{home}", __name__), name)
                return found
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
