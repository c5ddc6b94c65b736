"""The MBPP rows: every reference solution passes, and none with one value that is not quite the right one."""

import ast
import asyncio
import json
from typing import Any

import pytest
from support import data_path, require, run_async

from palaestra.envs import AssistantMessage, Episode, StopReason, Task
from palaestra.envs.graders import UnitTests

AT_ONCE = 8


def rows() -> list[dict[str, Any]]:
    with open(data_path("mbpp", "mbpp.jsonl"), encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def grade_all(references: list[list[str]]) -> dict[int, str]:
    """The evidence by row id of every row whose reward is not 1."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(row: dict[str, Any], reference: list[str]) -> tuple[float, str]:
        said = AssistantMessage(f"```python\n{row['code']}\n```")
        episode = Episode(task_id="t", seed=0, messages=(said,), stop=StopReason.DONE)
        task = Task(id="t", reference=reference, private={"setup": row["test_setup_code"]})
        async with slots:
            score = await UnitTests().grade(task, episode, None)
        return score.reward, score.evidence

    async def main() -> list[tuple[float, str]]:
        return await asyncio.gather(*map(one, rows(), references))

    graded = zip(rows(), run_async(main()), strict=True)
    return {row["task_id"]: evidence for row, (reward, evidence) in graded if reward != 1.0}


def almost(value: Any) -> Any:
    """What a lax comparison takes for `value`, or nearly so."""
    match value:
        case bool():
            return int(value)
        case int() | float():
            return value + 1
        case list():
            return tuple(value)  # pyright: ignore[reportUnknownVariableType,reportUnknownArgumentType]
        case tuple():
            return list(value)  # pyright: ignore[reportUnknownVariableType,reportUnknownArgumentType]
        case str():
            return value + " "
        case _:
            return [value]


def broken(test: str) -> str:
    statement = ast.parse(test.strip()).body[0]
    assert isinstance(statement, ast.Assert) and isinstance(statement.test, ast.Compare)
    call, expected = statement.test.left, statement.test.comparators[0]
    try:
        wrong = repr(almost(ast.literal_eval(expected)))
    except ValueError:
        wrong = f"{ast.unparse(expected)} + 1"
    return f"assert {ast.unparse(call)} == {wrong}"


@pytest.mark.data
def test_every_reference_solution_passes() -> None:
    require("data")
    references = [row["test_list"] for row in rows()]
    assert len(references) == 474
    assert grade_all(references) == {}


@pytest.mark.data
def test_no_reference_solution_passes_with_one_wrong_value() -> None:
    require("data")
    references = [row["test_list"] for row in rows()]
    for number, tests in enumerate(references):
        at = number % len(tests)
        tests[at] = broken(tests[at])
    failed = grade_all(references)
    assert len(failed) == 474
    assert {evidence.split(";")[0] for evidence in failed.values()} == {"2 of 3 tests passed"}
