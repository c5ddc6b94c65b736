"""Tests written as `assert call == expected`, taken apart: the call goes in, the expected value stays out."""

import ast
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import BadTask
from ._candidate import encode


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One test. Its id is its place in the list."""

    call: str
    """Source, for the program's process."""
    expected: str
    """What `encode` makes of the right answer; "" when `source` must be run to know it."""
    source: str
    """Of the expected value; never for the program's process."""


def parse_asserts(reference: Any) -> list[Case]:
    """The cases of a task's asserts. Raises `ValueError` for a test of any other form.

    >>> parse_asserts(["assert double(2) == 4"])
    [Case(call='double(2)', expected='4', source='4')]
    """
    texts: list[Any] = list(reference) if type(reference) in (list, tuple) else [reference or ""]
    cases = [_case(statement) for text in texts for statement in _statements(text)]
    if not cases:
        raise BadTask(f"the reference is {reference!r:.200}; it must be asserts, as in ['assert f(2) == 4']")
    return cases


def _statements(text: object) -> Sequence[ast.stmt]:
    try:
        if not isinstance(text, str):
            raise TypeError("it must be a str")
        return ast.parse(text.strip()).body
    except (TypeError, SyntaxError, ValueError, RecursionError) as error:
        raise BadTask(f"the test {text!r:.200} is not Python: {error}") from error


def _case(statement: ast.stmt) -> Case:
    match statement:
        case ast.Assert(test=ast.Compare(left=call, ops=[ast.Eq()], comparators=[expected])):
            if _literal(call) and not _literal(expected):
                call, expected = expected, call
        case _:
            call = expected = ast.Constant(None)
    # A comparison on the left would take an expected value into the program's process.
    if _literal(call) or any(isinstance(node, ast.Compare) for node in ast.walk(call)):
        raise BadTask(
            f"the test {ast.unparse(statement)!r:.200} is not of the form `assert call == expected`, "
            "the only one whose expected value can be kept from the program; "
            "for `assert f(x)` write `assert f(x) == True`"
        )
    return Case(call=ast.unparse(call), expected=_literal(expected), source=ast.unparse(expected))


def _literal(node: ast.expr) -> str:
    """The encoded value of a literal; "" for anything else."""
    try:
        return encode(ast.literal_eval(node))
    except (TypeError, ValueError, RecursionError):
        return ""


def imports_for(source: str) -> str:
    """The import statements of the standard modules that an expression names.

    >>> imports_for("sys.getsizeof((1, 2))")
    'import sys'
    """
    named = {node.id for node in ast.walk(ast.parse(source, mode="eval")) if isinstance(node, ast.Name)}
    return "\n".join(f"import {name}" for name in sorted(named & sys.stdlib_module_names))
