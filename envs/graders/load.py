"""A grader from what a recipe calls it."""

import ast
import importlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from ..errors import no_exit, where
from ..options import from_options
from ._functions.host import load_module
from ._functions.plain import Code, PlainCall
from .grading import AnyGrader, Grader, GroupGrader
from .lambda_reward import HANDLER, LambdaReward
from .named import NamedReward
from .presets import PRESETS, preset

REMOTE = ("http://", "https://", "arn:", "lambda:")


class UnknownReward(ValueError):
    """There is no such reward, or its file breaks."""


def load_reward(source: str, **options: Any) -> Grader:
    """`load_any`, of what judges an episode by itself. Raises `UnknownReward`."""
    found = load_any(source, **options)
    if isinstance(found, GroupGrader):
        raise UnknownReward(
            f"{source} judges the siblings of a group together, and here is one episode; name a grader with "
            "`grade`, or use it as the `reward` of a recipe"
        )
    return found


def load_any(source: str, **options: Any) -> AnyGrader:
    """The grader called `source`; `options` are those of `LambdaReward`, the fields of a class, or
    `concurrency` and `timeout_s` of a function.

    >>> load_reward("gsm8k")                             # a preset, see `preset`
    >>> load_reward("lambda_function.py")                # its lambda_handler(event, context)
    >>> load_reward("my_rewards.py:score")               # a function, see `NamedReward`, or a grader
    >>> load_reward("palaestra.envs.graders:Numeric")    # the same in a module that can be imported
    >>> load_reward("https://example.org/grade")         # also arn:aws:lambda:..., lambda:NAME

    Raises `UnknownReward`.
    """
    if source in PRESETS:
        try:
            return preset(source, **options)
        except ValueError as error:
            raise UnknownReward(str(error)) from error
    if source.startswith(REMOTE):
        return _lambda(source, options)
    file, _, name = source.partition(":")
    if file.endswith(".py"):
        _require_file(file)
        name = name or _default_name(Path(file))
        if name == HANDLER:
            return _lambda(f"{file}:{HANDLER}", options)
    if not name:
        presets = ", ".join(PRESETS)
        raise UnknownReward(
            f'{source!r} names no function; write one as in "my_rewards.py:score"; the presets are: {presets}'
        )
    return _as_grader(f"{file}:{name}", options)


def load_object(source: str) -> Any:
    """What stands at "folder/file.py:name" or "module:name". Raises `UnknownReward`."""
    file, _, name = source.rpartition(":")
    return _attribute(load_code(file), name, source)


def load_code(file: str) -> ModuleType:
    """A Python file, or a module that can be imported, in this process. Raises `UnknownReward`."""
    if file.endswith(".py") and not Path(file).is_file():
        raise UnknownReward(
            f"there is no file {file}; paths are relative to the recipe's or the present folder"
        )
    try:
        with no_exit():
            return load_module(file) if file.endswith(".py") else importlib.import_module(file)
    except Exception as error:  # every kind: an import runs other people's code
        why = f"{type(error).__name__}: {error}, {where(error)}"
        raise UnknownReward(f"{file} cannot be loaded: {why}") from error


def _require_file(file: str) -> None:
    if not Path(file).is_file():
        raise UnknownReward(f"there is no file {file}; a path starts at the present folder")


def _lambda(source: str, options: dict[str, Any]) -> LambdaReward:
    try:
        return from_options(LambdaReward, {"source": source, **options})
    except ValueError as error:
        raise UnknownReward(str(error)) from error


def _default_name(path: Path) -> str:
    """`lambda_handler`, or the only public function. The file is read, not run."""
    try:
        tree = ast.parse(path.read_bytes())
    except OSError as error:
        raise UnknownReward(f"cannot read {path}: {error.strerror}") from error
    except (SyntaxError, ValueError) as error:
        raise UnknownReward(f"{path} is no Python: {error}") from error
    if HANDLER in _bound(tree):
        return HANDLER
    found = [each.name for each in tree.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)]
    public = [name for name in found if not name.startswith("_")]
    if len(public) != 1:
        named = ", ".join(public) or "none"
        raise UnknownReward(f"{path} has no {HANDLER}; name a function as in {path}:score; it has: {named}")
    return public[0]


def _bound(tree: ast.Module) -> Iterator[str]:
    """The names that the top level of a file defines, assigns or imports."""
    for each in tree.body:
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef):
            yield each.name
        elif isinstance(each, ast.ImportFrom | ast.Import):
            yield from (alias.asname or alias.name for alias in each.names)
        elif isinstance(each, ast.Assign):
            yield from (target.id for target in each.targets if isinstance(target, ast.Name))


def _attribute(module: ModuleType, name: str, source: str) -> Any:
    if not hasattr(module, name):
        raise UnknownReward(f"{source}: {module.__name__} has no {name!r}")
    return getattr(module, name)


def _as_grader(source: str, options: dict[str, Any]) -> AnyGrader:
    found = load_object(source)
    if not isinstance(found, type) and callable(found) and not _is_grader(found):
        return NamedReward(found, call=_plain_call(source, options))
    if options and not isinstance(found, type):
        raise _takes_no(source, options)
    try:
        grader: Any = from_options(cast(type[Any], found), options) if isinstance(found, type) else found
    except ValueError as error:
        raise UnknownReward(f"{source}: {error}; give it options, or name one that is made") from error
    if _is_grader(grader):
        made: AnyGrader = grader
        return made
    if not callable(grader):
        raise UnknownReward(f"{source} is {grader!r:.100}, which is neither a function nor a grader")
    return NamedReward(grader)


def _is_grader(found: Any) -> bool:
    return isinstance(found, GroupGrader) or callable(getattr(found, "grade", None))


def _plain_call(source: str, options: dict[str, Any]) -> PlainCall:
    if odd := [name for name in options if name not in ("concurrency", "timeout_s")]:
        raise _takes_no(source, odd)
    file, _, name = source.rpartition(":")
    try:
        return PlainCall(Code.at(file), name, **options)
    except (TypeError, ValueError, OSError) as error:
        raise UnknownReward(f"{source}: {error}") from error


def _takes_no(source: str, names: Iterable[str]) -> UnknownReward:
    return UnknownReward(
        f"{source} is neither a {HANDLER} nor a class, and takes no {', '.join(names)}; leave that out"
    )
