"""gsm8k, finqa and sql: on their own few tasks, and on 100 and more of the real data."""

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from support import data_path, require, run_async

from palaestra.envs import (
    Env,
    Message,
    Policy,
    Scored,
    ScriptedPolicy,
    StopReason,
    Task,
    ToolMessage,
    call_tool,
    play,
)
from palaestra.envs.calculator import calculate
from palaestra.envs.catalog.finqa import FinancialReports
from palaestra.envs.catalog.gsm8k import WordProblems, WordProblemsWithCalculator
from palaestra.envs.catalog.sql import DatabaseQuestions
from palaestra.envs.graders import grade_episode

ENVS: dict[str, type[Env[Any]]] = {
    "finqa": FinancialReports,
    "gsm8k": WordProblems,
    "gsm8k-calculator": WordProblemsWithCalculator,
    "sql": DatabaseQuestions,
}
DATA: list[tuple[str, tuple[str, str]]] = [
    ("finqa", ("finqa_dev", "finqa_dev_flat.jsonl")),
    ("finqa", ("convfinqa_dev", "convfinqa_dev.json")),
    ("gsm8k", ("gsm8k", "train.jsonl")),
    ("gsm8k-calculator", ("gsm8k", "train.jsonl")),
    ("sql", ("spider_dev", "questions.jsonl")),
]
on_data = pytest.mark.parametrize(("name", "path"), DATA, ids=[f"{name} on {path[1]}" for name, path in DATA])


async def scored(env_class: type[Env[Any]], task: Task, policy: Policy) -> Scored:
    env = env_class()
    episode = await play(env, policy, task, seed=0)
    assert episode.stop is StopReason.DONE, episode
    found = await grade_episode(env.grader, task, episode, reward_range=env.reward_range)
    assert isinstance(found, Scored), found
    return found


def rewards(
    env_class: type[Env[Any]], tasks: Sequence[Task], policy: Callable[[Task], Policy]
) -> list[float]:
    room = asyncio.Semaphore(8)

    async def one(task: Task) -> float:
        async with room:
            return (await scored(env_class, task, policy(task))).reward

    async def main() -> list[float]:
        return await asyncio.gather(*map(one, tasks))

    return run_async(main())


def nothing(task: Task) -> Policy:
    return ScriptedPolicy([])


def answers(env_class: type[Env[Any]], task: Task, *calls: Any) -> list[tuple[str, bool]]:
    """What the tools said to each call."""
    episode = run_async(play(env_class(), ScriptedPolicy([*calls, "done"]), task, seed=0))
    return [(said.content, said.is_error) for said in episode.messages if isinstance(said, ToolMessage)]


@pytest.mark.data
@on_data
def test_a_guess_without_reading_earns_next_to_nothing(name: str, path: tuple[str, str]) -> None:
    """The last number of the question; all rows of the first table."""
    require("data")

    def guess(task: Task) -> Policy:
        text = task.messages[-1].content
        table = re.search(r"CREATE TABLE \W?(\w+)", text)
        numbers = re.findall(r"\d[\d,.]*\d|\d", text) or ["1"]
        return ScriptedPolicy([f"SELECT * FROM {table[1]}" if table else f"Answer: #### {numbers[-1]}"])

    tasks = list(ENVS[name].tasks(path=data_path(*path)))[::5][:70]
    earned = rewards(ENVS[name], tasks, guess)
    assert sum(earned) / len(earned) < 0.05, Counter(earned)


@pytest.mark.data
def test_every_program_of_convfinqa_leads_to_its_answer() -> None:
    """The steps of the oracle, worked out with the tool, against the reference, by the grader."""
    require("data")
    tasks = FinancialReports.tasks(path=data_path("convfinqa_dev", "convfinqa_dev.json"))
    calculated = [task for task in tasks if task.reference not in ("yes", "no")]
    assert (len(tasks), len(calculated)) == (421, 418)

    def result(task: Task) -> Policy:
        return ScriptedPolicy([f"Answer: {calculate(task.private['steps'][-1])}"])

    assert Counter(rewards(FinancialReports, calculated, result)) == {1.0: 418}


def test_the_calculator_oracle_takes_each_step_of_the_solution() -> None:
    for task in WordProblemsWithCalculator.tasks():
        episode = run_async(
            play(WordProblemsWithCalculator(), WordProblemsWithCalculator.oracle(task), task, seed=0)
        )
        said = [message.content for message in episode.messages if isinstance(message, ToolMessage)]
        assert said == re.findall(r"<<[^=]*=([^>]*)>>", task.private["solution"]) and said


def test_what_the_calculator_cannot_do_is_told_and_the_episode_goes_on() -> None:
    task = WordProblemsWithCalculator.tasks()[0]
    calls = [call_tool("calculator", expression=text) for text in ("1 / 0", "two", "6 * 7")]
    assert answers(WordProblemsWithCalculator, task, *calls) == [
        ("'1 / 0' divides by zero", True),
        ("'two' is no arithmetic; write numbers, + - * / ** % and brackets", True),
        ("42", False),
    ]


def test_the_table_of_a_report_is_read_through_the_tools_alone() -> None:
    task = FinancialReports.tasks().by_id("demo-4")
    assert "4200" not in task.prompt_text
    calls = [
        call_tool("table"),
        call_tool("cell", row="2022", column="Payments  ( in thousands )"),
        call_tool("cell", row="2025", column="payments ( in thousands )"),
        call_tool("cell", row="2022", column="payments"),
    ]
    said = answers(FinancialReports, task, *calls)
    assert said[0] == (
        "year | payments ( in thousands )\n2022 | $ 4200\n2023 | 3600\n2024 | 2200\ntotal | $ 10000",
        False,
    )
    assert said[1] == ("$ 4200", False)
    assert said[2] == ("there is no row '2025'; the rows are: 2022; 2023; 2024; total", True)
    assert said[3] == (
        "there is no column 'payments'; the columns are: year; payments ( in thousands )",
        True,
    )


def test_a_query_is_tried_and_its_mistakes_are_told() -> None:
    task = DatabaseQuestions.tasks()[0]
    said = answers(
        DatabaseQuestions,
        task,
        call_tool("query", sql="SELECT name, joined FROM wrestler WHERE id IN (1, 7) ORDER BY id"),
        call_tool("query", sql="SELECT nme FROM wrestler"),
        call_tool("query", sql="DELETE FROM wrestler"),
        call_tool("query", sql="SELECT a.id FROM bout AS a, bout AS b"),
        call_tool("query", sql="SELECT count(*) FROM wrestler"),
    )
    assert said[:3] == [
        ("name | joined\nMilo | 2015\nTimasitheos | NULL\n[2 rows]", False),
        ("no such column: nme", True),
        ("not authorized", True),
    ]
    assert said[3][0].endswith("\n[44 more rows]") and said[4] == ("count(*)\n7\n[1 rows]", False)


def test_only_the_last_query_counts_and_not_the_ones_that_were_tried() -> None:
    task = DatabaseQuestions.tasks()[0]
    tried = call_tool("query", sql=task.reference)
    assert rewards(DatabaseQuestions, [task], lambda _: ScriptedPolicy([tried, "SELECT 8"])) == [0.0]
    assert rewards(DatabaseQuestions, [task], lambda _: ScriptedPolicy(["SELECT 7"])) == [1.0]


@pytest.mark.parametrize("name", ENVS)
def test_tasks_follow_their_options(name: str, tmp_path: Path) -> None:
    tasks = ENVS[name].tasks(size=3, instructions="")
    assert len(tasks) == 3 and len(tasks[0].messages) == 1
    assert len(ENVS[name].tasks()[0].messages) == 2
    kinds: Sequence[Message] = ENVS[name].tasks(instructions="Do it.")[0].messages
    assert kinds[0].content == "Do it."
    with pytest.raises(ValueError, match="no such file"):
        ENVS[name].tasks(path=tmp_path / "none.jsonl")
    with pytest.raises(ValueError, match="size=0 must be at least 1"):
        ENVS[name].tasks(size=0)
