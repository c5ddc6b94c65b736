"""The code stays small: files of 300 lines and functions of 40, docstrings aside."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOMS = ("sandboxes", "envs", "agents", "trainer", "cli")
LINES_OF_A_FILE, LINES_OF_A_FUNCTION = 300, 40
LARGER: dict[str, int] = {
    # its parameters are the options of the command line, with their help
    "cli/train.py::train": 48,
    # the driver's half and the sandbox's half of one protocol
    "sandboxes/_driver/client.py": 308,
    "sandboxes/_inside/loop.py": 304,
    # one class each: a tier, and the way of a sandbox from its start to its end
    "sandboxes/_embedded/hosted.py": 312,
    "sandboxes/pool.py": 320,
}
"""What may be larger, up to so many lines, and why. This list only shrinks: what is cut leaves it, and
nothing gets in."""


def sizes() -> Iterator[tuple[str, int, int]]:
    """(name, lines, limit) of every file and function of the five packages."""
    for path in sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py")):
        name, text = str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")
        yield name, len(text.splitlines()), LINES_OF_A_FILE
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{name}::{node.name}", lines_of(node), LINES_OF_A_FUNCTION


def lines_of(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """From `def` to the last line, without the docstring."""
    first = node.body[0]
    assert node.end_lineno is not None and first.end_lineno is not None
    is_documented = ast.get_docstring(node) is not None
    docstring = first.end_lineno - first.lineno + 1 if is_documented else 0
    return node.end_lineno - node.lineno + 1 - docstring


def test_no_file_and_no_function_is_large() -> None:
    grown = {name: lines for name, lines, limit in sizes() if lines > LARGER.get(name, limit)}
    assert grown == {}, "cut what grew by its concerns"


def test_what_is_small_again_leaves_the_list() -> None:
    large = {name for name, lines, limit in sizes() if lines > limit}
    assert LARGER.keys() - large == set()
