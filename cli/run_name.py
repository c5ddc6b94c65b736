"""Names of runs and of evaluations, also on what they leave outside their folders: labels of containers."""

import os
import re

from ..sandboxes._docker.owner import RUN_VARIABLE
from ..trainer.recipe import NAME
from ..trainer.recipe_file import RecipeError


def check_name(name: str) -> None:
    """Raise `RecipeError` for a `--name` that is no part of a folder's name."""
    if not re.fullmatch(NAME, name):
        raise RecipeError(
            f"--name {name!r}: use letters, digits, '.', '_' and '-', and begin with a letter or a digit"
        )


def name_run(name: str) -> None:
    """For this process, unless the user has named it otherwise."""
    os.environ.setdefault(RUN_VARIABLE, name)
