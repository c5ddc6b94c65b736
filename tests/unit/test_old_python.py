"""What runs inside sandboxes keeps to Python 3.8: an image may have no newer one."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from palaestra.envs.graders import _candidate, _query
from palaestra.envs.graders._functions import host
from palaestra.sandboxes._docker import containers

PACKAGE = Path(containers.__file__).parent.parent
INSIDE = {
    name: PACKAGE.joinpath(*name.split(".")).with_suffix(".py")
    for name in (*containers.GUEST_MODULES, "_inside.python_session")
}
INSIDE["the grader's harness"] = Path(_candidate.__file__)
INSIDE["the asker of SQL"] = Path(_query.__file__)
INSIDE["the host of reward functions"] = Path(host.__file__)

BUILTIN = {
    "bool",
    "bytes",
    "dict",
    "float",
    "frozenset",
    "int",
    "list",
    "object",
    "set",
    "str",
    "tuple",
    "type",
}
GENERIC_IN = {"collections", "collections.abc", "contextlib", "re"}
"""Modules whose classes could not be subscripted."""
TOO_NEW = {
    *("StrEnum", "Self", "TypeAlias", "aclosing", "assert_never", "batched", "bit_count", "cache"),
    *("pairwise", "pidfd_open", "pidfd_send_signal", "recv_fds", "removeprefix", "removesuffix", "send_fds"),
    *("tomllib", "waitstatus_to_exitcode"),
}
TOO_NEW_OPTIONS = {"zip": {"strict"}, "dataclass": {"kw_only", "slots"}}


def evaluated(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node but annotations, and what only type checkers read."""
    for child in ast.iter_child_nodes(tree):
        is_annotation = child in (getattr(tree, "annotation", None), getattr(tree, "returns", None))
        if is_annotation or (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            continue
        yield child
        yield from evaluated(child)


def too_new(source: str) -> list[str]:
    """What of a module Python 3.8 does not have."""
    tree = ast.parse(source, feature_version=(3, 8))
    nodes = list(evaluated(tree))
    generic = BUILTIN | {
        alias.name
        for node in nodes
        if isinstance(node, ast.ImportFrom) and node.module in GENERIC_IN
        for alias in node.names
    }
    found = [words for node in nodes for words in _complaints(node, generic)]
    has_annotations = any(isinstance(node, ast.AnnAssign | ast.arg) for node in ast.walk(tree))
    if has_annotations and "from __future__ import annotations" not in source:
        found.append("annotations that are evaluated")
    return found


def _complaints(node: ast.AST, generic: set[str]) -> Iterator[str]:
    match node:
        case ast.Subscript(value=ast.Name(id=name)) if name in generic:
            yield f"{name}[...]"
        case ast.BinOp(op=ast.BitOr(), left=left, right=right):
            if {ast.unparse(left), ast.unparse(right)} & (BUILTIN | {"None"}):
                yield f"the union {ast.unparse(node)}"
        case ast.Attribute(attr=name) | ast.alias(name=name) if name in TOO_NEW:
            yield name
        case ast.Call(func=ast.Attribute(attr="from_bytes" | "to_bytes"), args=args, keywords=keywords):
            if len(args) + len(keywords) < 2:
                yield "bytes without an order"
        case ast.Call(func=ast.Name(id=name), keywords=keywords):
            yield from (f"{name}({k.arg}=)" for k in keywords if k.arg in TOO_NEW_OPTIONS.get(name, ()))
        case _:
            return


@pytest.mark.parametrize("name", INSIDE)
def test_nothing_that_runs_inside_needs_more_than_python_3_8(name: str) -> None:
    assert too_new(INSIDE[name].read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "from collections.abc import Callable\nHandler = Callable[[], None]",
        "class A(dict[str, int]): pass",
        "x = cast(int | None, y)",
        "found = list[int]()",
        "def f(x: list[int]): pass",
        "from functools import cache",
        "import functools\n@functools.cache\ndef f(): pass",
        "@dataclass(slots=True)\nclass A: pass",
        "zip(a, b, strict=True)",
        "os.waitstatus_to_exitcode(0)",
        "int.from_bytes(b'1')",
    ],
)
def test_the_check_finds_what_is_too_new(source: str) -> None:
    assert too_new(source)


@pytest.mark.parametrize(
    "source", ["match x:\n  case 1: pass", "try: pass\nexcept* OSError: pass", "with (a as b, c as d): pass"]
)
def test_the_check_finds_syntax_that_is_too_new(source: str) -> None:
    with pytest.raises(SyntaxError):
        too_new(source)


def test_the_guest_is_handed_every_module_before_those_that_import_it() -> None:
    given: set[str] = set()
    for name in containers.GUEST_MODULES:
        package = name.partition(".")[0]
        for node in ast.parse(INSIDE[name].read_text()).body:
            if not isinstance(node, ast.ImportFrom) or not node.level:
                continue
            base = f"{package}.{node.module or ''}" if node.level == 1 else str(node.module)
            base = base.rstrip(".")
            needed = {base} if base.count(".") else {f"{base}.{alias.name}" for alias in node.names}
            assert needed <= given, f"{name} imports {needed - given}"
        given.add(name)
