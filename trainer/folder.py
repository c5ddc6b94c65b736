"""The folder of a run, and files in it that are whole or not there."""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import yaml

from .recipe import Recipe
from .recipe_file import RecipeError

_SECRET = re.compile(r"(^|_)(key|token|secret|password|credential)s?$", re.IGNORECASE)


class CorruptCheckpoint(ValueError):
    """A checkpoint is not what was written. The message names the file."""


def open_folder(recipe: Recipe, *, resume: bool) -> None:
    """Make the run's folder, or find it again. Raises `RecipeError` where the other one was meant."""
    folder, stored = recipe.folder, recipe.folder / "recipe.yaml"
    resolved = yaml.safe_dump(redacted(recipe.model_dump(mode="json")), sort_keys=False)
    if not stored.exists():
        if resume:
            raise RecipeError(f"--resume: there is no run in {folder}; start it without --resume")
        make_folder(folder)
        try:
            write_whole(stored, resolved)
        except OSError as error:
            raise RecipeError(
                f"runs_dir: cannot write {stored}: {error.strerror}; name a folder of yours by --set runs_dir=..."
            ) from error
    elif not resume:
        raise RecipeError(
            f"{folder} holds a run; go on with it by --resume, or name another one by --set name=..."
        )
    elif stored.read_text(encoding="utf-8") != resolved:
        raise RecipeError(
            f"the recipe differs from the one that {folder} was started with ({stored}); "
            "resume with that recipe, or start a new run by --set name=..."
        )


def make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecipeError(
            f"runs_dir: cannot make {folder}: {error.strerror}; name a folder of yours by --set runs_dir=..."
        ) from error


def redacted(value: object) -> Any:
    """The same structure with every field that is named like a secret blanked.

    >>> redacted({"url": "u", "options": {"api_key": "sk-1"}})
    {'url': 'u', 'options': {'api_key': '[redacted]'}}
    """
    if isinstance(value, dict):
        fields = cast(dict[str, object], value)
        return {
            name: "[redacted]" if _is_secret(name, found) else redacted(found)
            for name, found in fields.items()
        }
    if isinstance(value, list):
        return [redacted(item) for item in cast(list[object], value)]
    return value


def _is_secret(name: str, value: object) -> bool:
    """Numbers are none: `max_tokens` is named like one."""
    return bool(_SECRET.search(name) and value) and not isinstance(value, int | float)


def write_whole(path: Path, text: str) -> None:
    """Write a file so that after a crash it is there with all of its text, or not there."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def make_whole(folder: Path, fill: Callable[[Path], None]) -> None:
    """Make a folder by `fill` so that after a crash it is there with all of its files, or not there."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    fill(partial)
    for path in (path for path in partial.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            os.fsync(file.fileno())
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)
