"""The folder of a run, and files in it that are whole or not there."""

import json
import os
import secrets
import shutil
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import yaml

from ..agents.ledger import Ledger
from .errors import DiskError
from .inputs import changed, fingerprints
from .recipe import Recipe
from .recipe_file import RecipeError
from .redaction import redacted
from .yaml_text import read_yaml, write_yaml

_FREE = {
    "name",
    "runs_dir",
    "checkpoint.every",
    "checkpoint.keep",
    "checkpoint.keep_best",
    "engine.api_key_env",
    "engine.canary_bound",
    "engine.max_in_flight",
    "engine.port",
    "engine.stuck_after_s",
    "engine.url",
    "grading.answers",
    "grading.callback_port",
    "grading.callback_url",
    "grading.endpoint_url",
    "grading.function",
    "grading.max_outstanding",
    "grading.poll_s",
    "grading.retry_s",
    "grading.token_env",
    "grading.url",
    "grpo.max_attempts",
    "grpo.retry_s",
    "model.path",  # its files have a fingerprint
    "model.start",  # the run has a copy
    "peak_tflops",
    "threads",
    "trackers",
}
"""Fields that say where and how a run works, not what comes out: they may change on the way. (The number of
threads is in the last bits, which count in deterministic mode.)"""

_NOTHING = ("None", "{}", "[]")
"""How a field that nobody has set stands in a recipe."""
_YOUNG = {
    "evaluation.at_start": "True",
    "evaluation.top_p": "1.0",
    "grpo.refill": "0",
    "grpo.shuffle_tasks": "True",
    "lora.lr_ratio": "1.0",
    "optimizer.eps": "1e-08",
    "warm_start.optimizer.eps": "1e-08",
}
"""Fields that a run may have begun before, and the value that they had then, where it is not nothing."""

QUESTION = "question"
"""The fact in a run file that makes it an evaluation's, and says what was asked (`palaestra eval`)."""

FILES = "files"
"""The fact in a run file that says what was in the files that its recipe names."""

RUN = "run"
"""The fact in a run file that tells the run from every other: a random word."""

RECIPE = "recipe"
"""The fact in an evaluation's run file that holds its recipe, as far as it is no secret."""


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


def open_folder(recipe: Recipe, ledger: Ledger, model: Mapping[str, str] | None, *, resume: bool) -> None:
    """Make the folder that `ledger` has locked the run's own. Raises `RecipeError` as `check_folder` does.

    `model`: the fingerprint of `model.path`.
    """
    check_folder(recipe, resume=resume)  # again: somebody else may have had the folder before the lock
    if ledger.meta(QUESTION) is not None:
        raise RecipeError(
            f"name: {recipe.folder} holds an evaluation; name the run otherwise by --set name=..."
        )
    if model is not None:
        _keep_model(recipe, ledger, json.dumps(model), resume=resume)
    _keep_files(recipe, ledger, resume=resume)
    if resume:
        return
    stored = recipe.folder / "recipe.yaml"
    try:
        write_whole(stored, _resolved(recipe))
    except OSError as error:
        raise _no_folder(f"cannot write {stored}", error) from error


def run_id(ledger: Ledger) -> str:
    """What tells this run from every other, wherever its folder is moved to."""
    if (found := ledger.meta(RUN)) is None:
        ledger.set_meta(RUN, found := secrets.token_hex(8))
    return found


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
    elif not _has_records(folder / "run.sqlite"):
        raise RecipeError(
            f"--resume: {folder / 'run.sqlite'} is gone or empty, and every episode and step of the run was "
            "in it; bring it back, or begin a new run on its weights by --continue and --set name=..."
        )
    elif odd := _differences(stored, recipe):
        raise RecipeError(
            f"the recipe differs from the one that {folder} was started with ({stored}): {'; '.join(odd)}; "
            "resume with that recipe, or start a new run by --set name=..."
        )


def _has_records(file: Path) -> bool:
    """A run's recipe is written when its run file is there."""
    return file.is_file() and file.stat().st_size > 0


def _differences(stored: Path, recipe: Recipe) -> list[str]:
    """The fields that would make it another run, as "seed was 0, is 1"."""
    try:
        text = stored.read_text(encoding="utf-8")
        if not text.strip():
            raise RecipeError(f"{stored} is empty: it was the recipe of the run; bring it back")
        before = _leaves(read_yaml(text))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{stored} is not YAML any more: {error}") from error
    now = _leaves(read_yaml(_resolved(recipe)))
    free = _FREE - {"threads"} if recipe.deterministic else _FREE
    for name in now.keys() - before.keys():
        if now[name] in (*_NOTHING, _YOUNG.get(name)):  # a run that began before there was such a field
            before[name] = now[name]
    return [
        f"{name} was {before.get(name, 'not there')}, is {now.get(name, 'not there')}"
        for name in sorted(before.keys() | now.keys())
        if name not in free and before.get(name) != now.get(name)
    ]


def _leaves(value: object, name: str = "") -> dict[str, str]:
    """Every field that is no section, by its dotted name, in words that can be compared."""
    fields = cast(dict[object, object], value) if isinstance(value, dict) else {}
    if not fields:
        return {name: f"{value!r}"}
    return {
        leaf: text
        for key, each in fields.items()
        for leaf, text in _leaves(each, f"{name}.{key}" if name else str(key)).items()
    }


def _keep_model(recipe: Recipe, ledger: Ledger, model: str, *, resume: bool) -> None:
    """The run file remembers the model of `model.path`. Raises `RecipeError` when it is another now."""
    if not resume:
        ledger.set_meta("model", model)
    elif ledger.meta("model") != model:
        raise RecipeError(
            f"model.path: {recipe.model.path} is not the model that {recipe.folder} was started with: other "
            "weights, tokenizer or template; bring that one back, or start a new run by --set name=..."
        )


def _keep_files(recipe: Recipe, ledger: Ledger, *, resume: bool) -> None:
    """The run file remembers what is in the recipe's other files. Raises `RecipeError` where that changed."""
    now, before = fingerprints(recipe), ledger.meta(FILES) if resume else None
    if before is None:  # it is new, or began before there was such a fact
        ledger.set_meta(FILES, json.dumps(now))
    elif odd := changed(json.loads(before), now):
        raise RecipeError(
            f"{odd} not what {recipe.folder} was started with; bring back what it was, "
            "or start a new run by --set name=..."
        )


def _resolved(recipe: Recipe) -> str:
    """The recipe as the run's folder keeps it."""
    return write_yaml(redacted(recipe.model_dump(mode="json")))


def make_folder(folder: Path) -> None:
    """Make a folder of `runs_dir`. Raises `RecipeError`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _no_folder(f"cannot make {folder}", error) from error


def _no_folder(what: str, error: OSError) -> RecipeError:
    return RecipeError(f"runs_dir: {what}: {error.strerror}; name a folder of yours by --set runs_dir=...")


def write_whole(path: Path, text: str) -> None:
    """Write a file so that after a crash it is there with all of its text, or not there."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    _fsync(path.parent)


def make_whole(folder: Path, fill: Callable[[Path], None]) -> None:
    """Make a folder by `fill` so that after a crash it is there with all of its files, or not there; one that
    was there before is there until then."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    with writing(folder):
        partial.mkdir(parents=True)
        fill(partial)
        replace_folder(partial, folder)


def replace_folder(partial: Path, folder: Path) -> None:
    """Give a folder its name when all of it is on disk, in the place of one that has it.

    After a crash between the two moves neither has the name: `bring_back` finds the old one.
    """
    for path in (*partial.rglob("*"), partial):
        _fsync(path)
    bring_back(folder)
    if folder.exists():
        folder.rename(_aside(folder))
    partial.rename(folder)
    _fsync(folder.parent)
    shutil.rmtree(_aside(folder), ignore_errors=True)


def bring_back(folder: Path) -> None:
    """A crash between two moves has left the old one aside: give it its name again."""
    if not folder.exists() and _aside(folder).is_dir():
        _aside(folder).rename(folder)
    shutil.rmtree(_aside(folder), ignore_errors=True)


def _aside(folder: Path) -> Path:
    """Where the old one waits until the new one has its name."""
    return folder.with_name(f".{folder.name}.old")


def _fsync(path: Path) -> None:
    """Have a file, or the names in a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
