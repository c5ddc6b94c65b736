"""Arithmetic as people write it, exactly.

>>> calculate("$1,200 * 15% / 3")
'60'
"""

import ast
import re
from decimal import Context, Decimal
from fractions import Fraction

MAX_CHARS = 500
_MAX_BITS = 4096
_MAX_EXPONENT = 64
_SPELLINGS: dict[str, str | int | None] = {
    "\N{MULTIPLICATION SIGN}": "*",
    "\N{DIVISION SIGN}": "/",
    "\N{MINUS SIGN}": "-",
    "^": "**",
    "$": "",
}
_LEGAL = re.compile(r"[0-9.+\-*/() ]*")
_DIGITS = 12
"""Of an answer that is no whole number."""


def calculate(expression: str) -> str:
    """The value in decimals: whole, or to 12 digits. `ValueError` says what cannot be worked out, and why.

    >>> calculate("7 / 3"), calculate("2 ^ 10"), calculate("0.1 + 0.2")
    ('2.33333333333', '1024', '0.3')
    """
    value = evaluate(expression)
    return str(value.numerator) if value.denominator == 1 else f"{_rounded(value):f}"


def evaluate(expression: str) -> Fraction:
    """The exact value."""
    if len(expression) > MAX_CHARS:
        raise ValueError(f"the expression has {len(expression)} characters; at most {MAX_CHARS} are read")
    text = expression.translate(str.maketrans(_SPELLINGS))
    text = re.sub(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))", "", text)
    text = re.sub(r"([0-9.]+)\s*%", r"(\1/100)", " ".join(text.split()))
    text = re.sub(r"(?<![0-9.])0+(?=[0-9])", "", text)
    if not _LEGAL.fullmatch(text):
        raise ValueError(f"{expression!r:.100} is no arithmetic; write numbers, + - * / ** % and brackets")
    try:
        return _value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, RecursionError, MemoryError):
        raise ValueError(f"{expression!r:.100} is no complete expression, such as (3 + 4) * 2") from None
    except ZeroDivisionError:
        raise ValueError(f"{expression!r:.100} divides by zero") from None


def _rounded(value: Fraction) -> Decimal:
    return Context(prec=_DIGITS).divide(Decimal(value.numerator), Decimal(value.denominator)).normalize()


def _value(node: ast.expr) -> Fraction:
    match node:
        case ast.Constant(value=int() | float()):
            return Fraction(ast.unparse(node))
        case ast.UnaryOp(op=ast.UAdd() | ast.USub()):
            value = _value(node.operand)
            return -value if isinstance(node.op, ast.USub) else value
        case ast.BinOp(op=ast.Pow()):
            return _power(_value(node.left), _value(node.right))
        case ast.BinOp():
            return _small(_combined(_value(node.left), node.op, _value(node.right)))
        case _:
            raise SyntaxError


def _combined(left: Fraction, sign: ast.operator, right: Fraction) -> Fraction:
    match sign:
        case ast.Add():
            return left + right
        case ast.Sub():
            return left - right
        case ast.Mult():
            return left * right
        case ast.Div():
            return left / right
        case ast.FloorDiv():
            return Fraction(left // right)
        case _:
            raise SyntaxError


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1 or abs(exponent) > _MAX_EXPONENT:
        raise ValueError(f"the exponent {_rounded(exponent):.6g} is no whole number up to {_MAX_EXPONENT}")
    return _small(Fraction(base**exponent.numerator))


def _small(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > _MAX_BITS:
        raise ValueError(f"the numbers grow over {_MAX_BITS} bits")
    return value
