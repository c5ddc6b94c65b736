"""MBPP rows as suites: every reference solution passes, and none with one value that is not the right one."""

import ast
import asyncio
import json
import re
from typing import Any

import pytest
from support import data_path, require, run_async

from palaestra.envs import Episode, StopReason, Task, Workspace
from palaestra.envs.graders import Suite
from palaestra.sandboxes import SandboxSpec

ROWS = range(0, 480, 8)
AT_ONCE = 4


def rows() -> list[dict[str, Any]]:
    with open(data_path("mbpp", "mbpp.jsonl"), encoding="utf-8") as file:
        found = [json.loads(line) for line in file]
    return [found[at] for at in ROWS if at < len(found)]


def suite(row: dict[str, Any], tests: list[str]) -> str:
    """A file with one function for each assert. It imports what the program defines and they use."""
    names = dict.fromkeys(re.findall(r"^(?:def|class) (\w+)", row["code"], flags=re.MULTILINE))
    setup = row["test_setup_code"].replace("\r", "")
    texts = (*tests, setup)
    used = {node.id for text in texts for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}
    imported = ", ".join(name for name in names if name in used)
    lines = [f"from solution import {imported}", "import math, sys"]
    lines += [f"def test_{at}():\n    {test.strip()}" for at, test in enumerate(tests)]
    return "\n".join([*lines, setup])


def grade_all(tests: list[list[str]]) -> dict[int, str]:
    """The evidence by row id of every row whose reward is not 1."""
    slots = asyncio.Semaphore(AT_ONCE)
    grader = Suite(sandbox=SandboxSpec(memory_mb=256))

    async def one(row: dict[str, Any], tests: list[str]) -> tuple[float, str]:
        files = (("solution.py", row["code"].encode()),)
        episode = Episode(task_id="t", seed=0, messages=(), stop=StopReason.DONE)
        task = Task(id="t", private={"tests": {"tests/test_row.py": suite(row, tests)}})
        async with slots:
            score = await grader.grade(task, episode, Workspace(files=files))
        return score.reward, score.evidence

    async def main() -> list[tuple[float, str]]:
        return await asyncio.gather(*map(one, rows(), tests))

    graded = zip(rows(), run_async(main()), strict=True)
    return {row["task_id"]: evidence for row, (reward, evidence) in graded if reward != 1.0}


def broken(test: str) -> str:
    """The test with another expected value."""
    statement = ast.parse(test.strip()).body[0]
    assert isinstance(statement, ast.Assert) and isinstance(statement.test, ast.Compare)
    call, expected = statement.test.left, statement.test.comparators[0]
    return f"assert {ast.unparse(call)} == [{ast.unparse(expected)}]"


@pytest.mark.data
def test_every_reference_solution_passes_its_suite() -> None:
    require("data")
    assert len(rows()) == 60
    assert grade_all([row["test_list"] for row in rows()]) == {}


@pytest.mark.data
def test_no_reference_solution_passes_a_suite_with_one_wrong_value() -> None:
    require("data")
    tests: list[list[str]] = [list(row["test_list"]) for row in rows()]
    for number, row in enumerate(tests):
        at = number % len(row)
        row[at] = broken(row[at])
    failed = grade_all(tests)
    assert len(failed) == 60
    assert {evidence.split(";")[0] for evidence in failed.values()} == {"2 of 3 tests passed"}
