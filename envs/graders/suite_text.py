"""The text of a test suite: which tests it has, what it needs, and what `Suite` has no place for."""

import ast
import posixpath
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import BadTask
from ..task import Task

INSIDE = Path(__file__).with_name("_suite")
_TOUCHING_FILES = (
    *("chdir", "glob", "open", "os", "pathlib", "Path", "runpy", "shutil", "spec_from_file_location"),
    *("sqlite3", "subprocess", "tempfile", "tmp_path", "tmp_path_factory"),
)
_REFUSED = {
    "compile": "it would run text beside the expected values; import the program, or run it with subprocess",
    "eval": "it would run text beside the expected values; compare the text, or use ast.literal_eval",
    "exec": "it would run text beside the expected values; import the program, or run it with subprocess",
}
_REFUSED_MODULES = {
    "ctypes": "it reaches around the wall between suite and program",
    "doctest": "it runs the program's text beside the expected values; write tests",
    "hypothesis": "it is no part of the standard library; use pytest.mark.parametrize",
    "multiprocessing": "a test has one process; start programs with subprocess",
    "pickle": "it runs what the program wrote beside the expected values; compare the objects' fields",
    "pytest_mock": "use unittest.mock, or the fixture monkeypatch",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class SuiteText:
    """A suite that `Suite` can run."""

    sources: Mapping[str, str]
    """Text of the Python files by relative path."""
    data: Mapping[str, bytes]
    """All other files."""
    ids: tuple[str, ...]
    """The tests that the text shows, without parameters, in order."""
    imports: tuple[str, ...]
    """Names of the standard modules that it imports."""
    touches_files: bool
    """Whether a test may look at a file, so that the sandboxes must tell each other theirs."""

    def required(self, reference: Any) -> tuple[str, ...]:
        """The ids that a task asks for: those of its `reference`, or all. Raises `ValueError`."""
        listed: Any = self.ids if reference is None else reference
        ids: tuple[Any, ...] = (listed,) if isinstance(listed, str) else tuple(listed)
        for id in ids:
            path, found, _ = str(id).partition("::")
            if not isinstance(id, str) or not found or path not in self.sources:
                raise BadTask(
                    f"Task.reference names the test {id!r}; it must be like 'tests/test_a.py::test_x', in "
                    f"one of the suite's files: {sorted(self.sources)!r:.300}"
                )
        if not ids or len(set(ids)) < len(ids):
            raise BadTask(f"Task.reference must name one or more tests, each once; got {ids!r:.200}")
        return ids


def read_suite(task: Task, field: Mapping[str, str | bytes] | None) -> SuiteText:
    """The suite of a task. Raises `ValueError`, which says what to change."""
    files: Any = task.private.get("tests") if field is None else field
    if not files or not hasattr(files, "items"):
        raise BadTask(
            f"task {task.id!r} has no suite: Task.private['tests'] is {files!r:.100}; it must be a mapping "
            "of file names to text, as in {'tests/test_a.py': 'def test_x(): ...'}"
        )
    sources: dict[str, str] = {}
    data: dict[str, bytes] = {}
    for name, text in files.items():
        _require_file(name, text)
        if name.endswith(".py"):
            sources[name] = text if isinstance(text, str) else text.decode()
        else:
            data[name] = text.encode() if isinstance(text, str) else text
    trees = {name: _parsed(name, text) for name, text in sources.items()}
    nodes = [node for tree in trees.values() for node in ast.walk(tree)]
    for name, tree in trees.items():
        _require_supported(name, tree, trees)
    return SuiteText(
        sources=sources,
        data=data,
        ids=tuple(id for name, tree in trees.items() for id in _ids(name, tree)),
        imports=tuple(sorted(filter(_is_standard, {name for node in nodes for name in _imported(node)}))),
        touches_files=bool(data) or any(word in _TOUCHING_FILES for node in nodes for word in _words(node)),
    )


def _require_file(name: Any, text: Any) -> None:
    is_path = isinstance(name, str) and posixpath.normpath(name) == name and not name.startswith(("/", ".."))
    if not is_path or not isinstance(text, str | bytes):
        raise BadTask(
            f"the suite has a file {name!r:.100} of type {type(text).__name__}; it must be a relative path "
            "without '..', and text or bytes"
        )


def _parsed(name: str, text: str) -> ast.Module:
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError) as error:
        raise BadTask(f"the suite's file {name!r} is not Python: {error}") from error


def _ids(name: str, tree: ast.Module) -> Iterator[str]:
    """What pytest would collect, as far as the text shows it."""
    last = posixpath.basename(name)
    if not (last.startswith("test_") or last.endswith("_test.py")):
        return
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test"):
            yield f"{name}::{node.name}"
        elif isinstance(node, ast.ClassDef) and _is_tested(node, classes):
            for method in _methods(node, classes):
                yield f"{name}::{node.name}::{method}"


def _is_tested(node: ast.ClassDef, classes: Mapping[str, ast.ClassDef]) -> bool:
    bases = [ast.unparse(base) for base in node.bases]
    is_unittest = any(base.endswith("TestCase") for base in bases)
    inherits = any(
        _is_tested(classes[base], classes) for base in bases if base in classes and base != node.name
    )
    return node.name.startswith("Test") or is_unittest or inherits


def _methods(node: ast.ClassDef, classes: Mapping[str, ast.ClassDef]) -> list[str]:
    names: list[str] = []
    for base in map(ast.unparse, node.bases):
        if base in classes and base != node.name:
            names += _methods(classes[base], classes)
    for item in node.body:
        if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef) and item.name.startswith("test"):
            names.append(item.name)
    return list(dict.fromkeys(names))


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []


def _is_standard(module: str) -> bool:
    return module.partition(".")[0] in sys.stdlib_module_names and module not in ("antigravity", "this")


def _words(node: ast.AST) -> list[str]:
    match node:
        case ast.Name(id=word) | ast.Attribute(attr=word) | ast.arg(arg=word):
            return [word]
        case ast.Import() | ast.ImportFrom():
            return [part for module in _imported(node) for part in module.split(".")]
        case _:
            return []


def _require_supported(name: str, tree: ast.Module, trees: Mapping[str, ast.Module]) -> None:
    """Raises `ValueError` for what a suite across a wall cannot have, with the cure."""
    fixtures = set(_builtin_fixtures()) | {found for each in trees.values() for found in _fixtures(each)}
    for node in ast.walk(tree):
        trouble = ""
        match node:
            case ast.Call(func=ast.Name(id=word)) if word in _REFUSED:
                trouble = f"{word}(): {_REFUSED[word]}"
            case ast.Import() | ast.ImportFrom():
                tops = {module.partition(".")[0] for module in _imported(node)}
                found = sorted(tops & set(_REFUSED_MODULES))
                trouble = f"import {found[0]}: {_REFUSED_MODULES[found[0]]}" if found else _of_pytest(node)
            case ast.Attribute(value=ast.Name(id="pytest"), attr=word) if word not in pytest_names():
                trouble = f"pytest.{word}: the suite may use {', '.join(pytest_names())}"
            case ast.FunctionDef(name=word) if word.startswith("pytest_"):
                trouble = f"{word}: a hook of pytest, of which there are none; write it as a fixture"
            case ast.FunctionDef() | ast.AsyncFunctionDef() if _is_test(node):
                unknown = sorted(set(_asked(node)) - fixtures)
                if unknown:
                    trouble = f"the fixture {unknown[0]!r}: there are {', '.join(sorted(fixtures))}"
            case _:
                pass
        if trouble:
            line = getattr(node, "lineno", 0)
            raise BadTask(f"the suite's file {name!r}, line {line}, uses what Suite has not: {trouble}")


def _of_pytest(node: ast.Import | ast.ImportFrom) -> str:
    if isinstance(node, ast.ImportFrom) and node.module == "pytest":
        unknown = [alias.name for alias in node.names if alias.name not in pytest_names()]
        return f"pytest.{unknown[0]}: the suite may use {', '.join(pytest_names())}" if unknown else ""
    return ""


def _is_test(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """A test whose arguments are fixtures or parameters, and nothing that another decorator may fill."""
    words = [ast.unparse(decorator) for decorator in node.decorator_list]
    return node.name.startswith("test") and all(word.startswith(("pytest.mark", "mark.")) for word in words)


def _asked(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """Arguments without a default that no `parametrize` names."""
    names = [arg.arg for arg in (*node.args.posonlyargs, *node.args.args)]
    names = names[: len(names) - len(node.args.defaults)]
    given = {"self", "cls"}
    for decorator in node.decorator_list:
        match decorator:
            case ast.Call(func=ast.Attribute(attr="parametrize"), args=[ast.Constant(value=str(words)), *_]):
                given |= {word.strip() for word in words.split(",")}
            case ast.Call(func=ast.Attribute(attr="parametrize"), args=[first, *_]):
                given |= {str(item.value) for item in ast.walk(first) if isinstance(item, ast.Constant)}
            case _:
                pass
    return [name for name in names if name not in given]


def _fixtures(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for decorator in node.decorator_list:
                if "fixture" in ast.unparse(decorator):
                    yield node.name
                    for word in ast.walk(decorator):
                        if isinstance(word, ast.keyword) and word.arg == "name":
                            yield ast.literal_eval(word.value)


@cache
def pytest_names() -> tuple[str, ...]:
    """What stands for pytest inside: read from the text of its stand-in, which only the sandbox imports."""
    return tuple(_constant("shim.py", "__all__"))


@cache
def _builtin_fixtures() -> tuple[str, ...]:
    return (*_constant("tools.py", "FIXTURES"),)


def _constant(file: str, name: str) -> list[str]:
    for node in ast.parse((INSIDE / file).read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            found: list[str] = list(ast.literal_eval(node.value))
            return found
    raise AssertionError(f"{file} has no {name}")
