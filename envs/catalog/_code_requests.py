"""Small programs to ask for, put together from parts: which numbers, what becomes of each, what comes out."""

import random
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

WHICH = {
    "the numbers": "True",
    "the even numbers": "n % 2 == 0",
    "the odd numbers": "n % 2 == 1",
    "the positive numbers": "n > 0",
    "the negative numbers": "n < 0",
    "the multiples of 3": "n % 3 == 0",
}
EACH = {
    "": "n",
    "adds 1 to each": "n + 1",
    "doubles each": "2 * n",
    "negates each": "-n",
    "squares each": "n * n",
    "takes the last digit of each": "abs(n) % 10",
}
RESULT = {
    "how many different ones there are": "len(set(values))",
    "the largest, or 0 if there is none": "max(values, default=0)",
    "the smallest, or 0 if there is none": "min(values, default=0)",
    "their sum": "sum(values)",
    "a list of them, the last one first": "values[::-1]",
    "a list of them, sorted": "sorted(values)",
}
NUM_TESTS = 3


def requests(size: int, seed: int) -> Iterator[dict[str, Any]]:
    """Rows in the form of MBPP, as many as there are combinations at most, in an order that `seed` gives."""
    every = list(product(WHICH, EACH, RESULT))
    if not 1 <= size <= len(every):
        raise ValueError(f"size={size}: there are {len(every)} requests; ask for 1 to {len(every)} of them")
    draw = random.Random(seed)
    for number, (which, each, result) in enumerate(draw.sample(every, size)):
        code = (
            "def solve(numbers):\n"
            f"    values = [{EACH[each]} for n in numbers if {WHICH[which]}]\n"
            f"    return {RESULT[result]}\n"
        )
        then = f", {each}" if each else ""
        text = f"Write a function solve(numbers) that takes {which} of a list{then} and returns {result}."
        yield {
            "task_id": f"made-{seed}-{number}",
            "text": text,
            "code": code,
            "test_list": _tests(code, draw),
        }


def _tests(code: str, draw: random.Random) -> list[str]:
    """With more than one right value among them, which no constant can be."""
    names: dict[str, Any] = {}
    exec(code, names)  # our own text, put together above
    solve: Callable[[list[int]], Any] = names["solve"]
    while True:
        inputs = [[draw.randint(-20, 20) for _ in range(draw.randint(4, 8))] for _ in range(NUM_TESTS)]
        if len({repr(solve(numbers)) for numbers in inputs}) == NUM_TESTS:
            return [f"assert solve({numbers}) == {solve(numbers)!r}" for numbers in inputs]
