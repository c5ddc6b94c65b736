"""The folder of a run, and files in it that are whole or not there."""

import os
import re
import shutil
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import yaml

from .recipe import Recipe
from .recipe_file import RecipeError

_SECRET = re.compile(r"(^|[._-])(key|token|secret|password|credential)s?$", re.IGNORECASE)
_BLANK = "[redacted]"


class CorruptCheckpoint(ValueError):
    """A checkpoint is not what was written. The message names the file."""


class DiskError(Exception):
    """A file of the run cannot be written. The message names the file and the cure."""


@contextmanager
def writing(path: Path) -> Generator[None, None, None]:
    """Raise `DiskError` where the block cannot write `path`."""
    try:
        yield
    except OSError as error:
        raise DiskError(
            f"cannot write {path}: {error.strerror or error}; what was finished before is kept: "
            "free some space and go on with --resume"
        ) from error


def open_folder(recipe: Recipe, *, resume: bool) -> None:
    """Make the run's folder, or find it again. Raises `RecipeError` where the other one was meant."""
    check_folder(recipe, resume=resume)
    if resume:
        return
    make_folder(recipe.folder)
    stored = recipe.folder / "recipe.yaml"
    try:
        write_whole(stored, _resolved(recipe))
    except OSError as error:
        raise _no_folder(f"cannot write {stored}", error) from error


def check_folder(recipe: Recipe, *, resume: bool) -> None:
    """Raise `RecipeError` where a new run would meet an old one, or `resume` none, or another's."""
    folder, stored = recipe.folder, recipe.folder / "recipe.yaml"
    if not stored.exists():
        if resume:
            raise RecipeError(f"--resume: there is no run in {folder}; start it without --resume")
    elif not resume:
        raise RecipeError(
            f"{folder} holds a run; go on with it by --resume, or name another one by --set name=..."
        )
    elif stored.read_text(encoding="utf-8") != _resolved(recipe):
        raise RecipeError(
            f"the recipe differs from the one that {folder} was started with ({stored}); "
            "resume with that recipe, or start a new run by --set name=..."
        )


def _resolved(recipe: Recipe) -> str:
    """The recipe as the run's folder keeps it."""
    return yaml.safe_dump(redacted(recipe.model_dump(mode="json")), sort_keys=False)


def make_folder(folder: Path) -> None:
    """Make a folder of `runs_dir`. Raises `RecipeError`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _no_folder(f"cannot make {folder}", error) from error


def _no_folder(what: str, error: OSError) -> RecipeError:
    return RecipeError(f"runs_dir: {what}: {error.strerror}; name a folder of yours by --set runs_dir=...")


def redacted(value: object) -> Any:
    """The same structure with every field and command-line flag that is named like a secret blanked.

    >>> redacted({"url": "u", "options": {"api_key": "sk-1"}, "args": ["--hf-token", "hf-1"]})
    {'url': 'u', 'options': {'api_key': '[redacted]'}, 'args': ['--hf-token', '[redacted]']}
    """
    if isinstance(value, dict):
        fields = cast(dict[str, object], value)
        return {
            name: _BLANK if _is_secret(name, found) else redacted(found) for name, found in fields.items()
        }
    if isinstance(value, list):
        return list(_redacted_items(cast(list[object], value)))
    return value


def _redacted_items(items: list[object]) -> Iterator[Any]:
    """In a list of arguments, a flag names what follows it: `--api-key=K`, and `--api-key K1 K2`."""
    flag = ""
    for item in items:
        if isinstance(item, str) and item.startswith("-"):
            flag, equals, given = item.partition("=")
            yield f"{flag}={_BLANK}" if equals and _is_secret(flag, given) else item
        else:
            yield _BLANK if isinstance(item, str) and _is_secret(flag, item) else redacted(item)


def _is_secret(name: str, value: object) -> bool:
    """Numbers are none: `max_tokens` is named like one, and so is `--max-num-batched-tokens 2048`."""
    is_number = isinstance(value, int | float) or (name.startswith("-") and str(value).isdecimal())
    return bool(_SECRET.search(name) and value) and not is_number


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
    with writing(folder):
        partial.mkdir(parents=True)
        fill(partial)
        for path in (path for path in partial.rglob("*") if path.is_file()):
            with path.open("rb") as file:
                os.fsync(file.fileno())
        shutil.rmtree(folder, ignore_errors=True)
        partial.replace(folder)
