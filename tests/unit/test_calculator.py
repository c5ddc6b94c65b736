"""The calculator: exact, as people write, and with limits."""

import json
import re
import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import data_path, require

from palaestra.envs.calculator import calculate, evaluate


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("48/2", "24"),
        ("(1 + 2) * -3", "-9"),
        ("$1,200 * 15% / 3", "60"),
        ("7/3", "2.33333333333"),
        ("2/3", "0.666666666667"),
        ("0.1 + 0.2", "0.3"),
        ("2 ^ 10", "1024"),
        ("2**-2", "0.25"),
        ("7 // 2", "3"),
        ("007 + 1", "8"),
        (".5 + 5.", "5.5"),
        ("6 \N{MULTIPLICATION SIGN} 7 \N{DIVISION SIGN} 2 \N{MINUS SIGN} 1", "20"),
        ("1,000,000 * 1,000,000", "1000000000000"),
        ("20% * 50", "10"),
    ],
)
def test_arithmetic_as_people_write_it(expression: str, value: str) -> None:
    assert calculate(expression) == value


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("", "no complete expression"),
        ("(1", "no complete expression"),
        ("2(3)", "no complete expression"),
        ("1 2", "no complete expression"),
        ("1,2", "is no arithmetic"),
        ("x + 1", "is no arithmetic"),
        ("__import__('os')", "is no arithmetic"),
        ("1 if 1 else 2", "is no arithmetic"),
        ("1/0", "divides by zero"),
        ("0**-1", "divides by zero"),
        ("9**9**9", "exponent"),
        ("2**0.5", "exponent 0.5 is no whole number"),
        ("9**64**2", "exponent"),
        ("((9**64)**64)**64", "over 4096 bits"),
        ("2**((9**64)**20)", "exponent"),
        ("(" * 250 + "1" + ")" * 249, "no complete expression"),
        ("1+" * 300, "600 characters"),
    ],
)
def test_what_cannot_be_worked_out_is_said_at_once(expression: str, said: str) -> None:
    started = time.monotonic()
    with pytest.raises(ValueError, match=re.escape(said)):
        calculate(expression)
    assert time.monotonic() - started < 5.0


@given(st.text(alphabet="0123456789.,+-*/()%^$ e", max_size=40))
def test_no_expression_breaks_the_calculator(expression: str) -> None:
    try:
        assert re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", calculate(expression))
    except ValueError as error:
        assert str(error)


@given(st.fractions(max_denominator=10**6), st.fractions(max_denominator=10**6))
def test_sums_and_products_are_exact(one: Fraction, other: Fraction) -> None:
    assert evaluate(f"({one}) * ({other}) - ({other})") == one * other - other


@pytest.mark.data
def test_every_annotation_of_gsm8k_is_worked_out_as_it_says() -> None:
    require("data")
    with open(data_path("gsm8k", "train.jsonl"), encoding="utf-8") as file:
        solutions = [json.loads(line)["answer"] for line in file]
    steps = [step.split("=") for solution in solutions for step in re.findall(r"<<(.*?)>>", solution)]
    assert len(steps) == 23_716
    # Some results were rounded by those who wrote them.
    assert not [
        step for step in steps if abs(evaluate(step[0]) - evaluate(step[1])) > abs(evaluate(step[1])) / 50
    ]
