"""Sums that a stranger wrote, without `eval`."""

import ast
import operator
import re
from collections.abc import Callable

from ...errors import ToolError

MAX_CHARS = 200
OPERATORS: dict[type[ast.operator] | type[ast.unaryop], Callable[..., float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}


def evaluate(expression: str) -> float:
    """Numbers, + - * / and parentheses. Raises `ToolError` for everything else.

    >>> evaluate("2 * (3 + 4)")
    14.0
    """
    if len(expression) > MAX_CHARS or not re.fullmatch(r"[0-9.+\-*/() ]+", expression):
        raise ToolError(
            f"an expression is made of numbers, + - * / ( ) and spaces, at most {MAX_CHARS} in all"
        )
    try:
        return float(_value(ast.parse(expression.strip(), mode="eval").body))
    except (SyntaxError, ArithmeticError) as error:
        raise ToolError(f"{expression!r} cannot be calculated: {error}") from error


def _value(node: ast.expr) -> float:
    match node:
        case ast.Constant(value=int() | float() as number):
            return float(number)
        case ast.UnaryOp(op=op, operand=operand) if type(op) in OPERATORS:
            return OPERATORS[type(op)](_value(operand))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            return OPERATORS[type(op)](_value(left), _value(right))
        case _:
            raise ToolError("only + - * / can be calculated")
