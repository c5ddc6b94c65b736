"""The files that a recipe names, by what is in them: a run goes on only with the same."""

import hashlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from .recipe import Recipe


def input_files(recipe: Recipe) -> Iterator[tuple[str, Path]]:
    """(field, path) of the rows, the reward, the tools and the files of a grader, as far as they are on disk.

    Modules that these import, those that are named by a module's name, and what is behind a URL are not among
    them.
    """
    if recipe.data is not None and (data := Path(recipe.data.path.removeprefix("hf:"))).exists():
        yield "data.path", data
    reward = "" if recipe.reward is None else recipe.reward.function.partition(":")[0]
    for field, name in (("reward.function", reward), ("tools", recipe.tools or "")):
        if name.endswith(".py") and (file := Path(name)).is_file():
            yield field, file
    if recipe.grading is not None:
        yield from ((f"grading.files.{number}", path) for number, path in enumerate(recipe.grading.files))


def fingerprints(recipe: Recipe) -> dict[str, str]:
    """SHA-256 of each of `input_files`, by "field: path"."""
    return {f"{field}: {path}": _digest(path) for field, path in input_files(recipe)}


def sources(names: Iterable[str], *made: object) -> dict[str, str]:
    """SHA-256 of the Python files behind "file.py:name" or "module:name" and the classes of objects."""
    modules = [(each if isinstance(each, type) else type(each)).__module__ for each in made]
    files: list[str] = []
    for name in [*names, *modules]:
        file = name.partition(":")[0]
        loaded = getattr(sys.modules.get(file), "__file__", None)
        files.append(file if file.endswith(".py") else loaded or "")
    return {f"grader: {file}": sha256(Path(file)) for file in files if Path(file).is_file()}


def changed(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Which files are other ones, in words; "" where none is.

    >>> changed({"data.path: train.jsonl": "ab"}, {"data.path: train.jsonl": "cd"})
    'data.path: train.jsonl has changed and is'
    """
    odd = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    if not odd:
        return ""
    return f"{', '.join(odd)} {'have changed and are' if len(odd) > 1 else 'has changed and is'}"


def fingerprint(model: Path) -> dict[str, str]:
    """SHA-256 of each file that makes the model, by name: the same folder may hold another one later.

    Reads all of it: seconds for billions of parameters.
    """
    files = (path for ending in ("safetensors", "json", "jinja") for path in model.glob(f"*.{ending}"))
    return {path.name: sha256(path) for path in sorted(files)}


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(path: Path) -> str:
    """Of a file, or of a folder with all that is in it."""
    if path.is_file():
        return sha256(path)
    files = sorted(each for each in path.rglob("*") if each.is_file())
    names = "".join(f"{each.relative_to(path)} {sha256(each)}\n" for each in files)
    return hashlib.sha256(names.encode()).hexdigest()
