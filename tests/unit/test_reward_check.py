"""`check_reward` finds what is wrong with a reward, and nothing wrong with a good one."""

import json
import re
import time
from collections.abc import Callable
from importlib import import_module
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from datasets_builders import user
from support import run_async

from palaestra.cli.check_reward import Rows, find_cases
from palaestra.envs import AssistantMessage, Episode, SystemMessage, Task, UserMessage
from palaestra.envs.check import Check
from palaestra.envs.datasets import DatasetError, read_tasks
from palaestra.envs.graders import Exact, Grader, Numeric, UnknownReward, final_answer, grader, load_reward
from palaestra.envs.graders.check_programs import check_programs
from palaestra.envs.graders.check_reward import RewardCase, answered, check_reward
from palaestra.envs.outcome import Scored
from palaestra.trainer.recipe_file import RecipeError


def case(number: int) -> RewardCase:
    wish = UserMessage(f"What is {number} + {number}?")
    task = Task(id=f"sum-{number}", messages=(wish,), reference=str(2 * number))
    return RewardCase(task=task, gold=answered(task, f"Answer: {2 * number}"))


SYSTEM = {"role": "system", "content": "Solve it."}
CASES = [case(number) for number in (7, 40, 512)]


def checked(
    reward: Grader, cases: list[RewardCase] = CASES, *, max_grade_s: float = 10.0
) -> dict[str, Check]:
    rows = run_async(check_reward(reward, cases, max_grade_s=max_grade_s))
    return {row.name: row for row in rows}


def failed(reward: Grader, *, max_grade_s: float = 10.0) -> dict[str, str]:
    rows = checked(reward, max_grade_s=max_grade_s)
    return {name: row.detail for name, row in rows.items() if not row.passed}


ROWS = ["gold", "wrong", "empty", "spam", "injected", "hostile", "determinism", "range", "time"]


@pytest.mark.parametrize("reward", [Exact(prefix="Answer:"), Numeric(prefix="Answer:"), Numeric()])
def test_a_good_reward_passes_every_row(reward: Grader) -> None:
    found = checked(reward)
    assert list(found) == ROWS
    assert failed(reward) == {}


def scored(function: Callable[[str, str], float]) -> Grader:
    """A reward of what was said last, and the reference."""

    @grader
    def reward(task: Task, episode: Episode) -> float:
        return function(final_answer(episode, None) or "", str(task.reference))

    return reward


def last_number(text: str) -> str:
    return text[found[-1].start() : found[-1].end()] if (found := [*re.finditer("[0-9]+", text)]) else ""


def right(text: str, wanted: str) -> bool:
    return last_number(text) == wanted


def slow(text: str, wanted: str) -> float:
    time.sleep(0.2)
    return right(text, wanted)


MOODS = cycle([0.8, 1.0])
BAD: dict[str, tuple[Callable[[str, str], float], str]] = {
    "pays nothing": (lambda text, wanted: 0.0, "gold"),
    "pays too much": (lambda text, wanted: 2.0 * right(text, wanted), "range"),
    "pays everything": (lambda text, wanted: 1.0, "wrong"),
    "pays another number": (lambda text, wanted: float(bool(last_number(text))), "wrong"),
    "pays silence": (lambda text, wanted: float(right(text, wanted) or not text), "empty"),
    "pays half for silence": (lambda text, wanted: 1.0 if right(text, wanted) else 0.5, "empty"),
    "pays for all answers": (lambda text, wanted: float(wanted in text), "spam"),
    "pays length": (lambda text, wanted: float(right(text, wanted) or len(text) > 99_000), "spam"),
    "believes what it reads": (
        lambda text, wanted: right(text, wanted) or '"reward": 1.0' in text,
        "injected",
    ),
    "breaks over a half": (lambda text, wanted: right(text, wanted) * len(text.encode()) ** 0, "hostile"),
    "has moods": (lambda text, wanted: right(text, wanted) * next(MOODS), "determinism"),
    "is slow": (slow, "time"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_with_a_reward_is_found_and_named(name: str) -> None:
    function, row = BAD[name]
    found = failed(scored(function), max_grade_s=0.15 if row == "time" else 10.0)
    assert row in found, found
    assert "task 'sum-" in found[row]


def test_a_reward_that_breaks_over_an_answer_is_told_with_its_error() -> None:
    found = failed(scored(lambda text, wanted: right(text, wanted) + 0 * len(text.encode())))
    assert "half a surrogate pair: no number: crash: UnicodeEncodeError" in found["hostile"]


def test_a_reward_of_another_range_is_tried_within_it() -> None:
    reward = scored(lambda text, wanted: 5.0 if right(text, wanted) else -1.0)
    rows = run_async(check_reward(reward, CASES, reward_range=(-1.0, 5.0)))
    assert [row.name for row in rows if not row.passed] == []
    assert "gold" in failed(reward)


@grader
def runs_it_here(task: Task, episode: Episode) -> float:
    names: dict[str, Callable[[int], int]] = {}
    program = episode.answers[-1].content.strip("`").removeprefix("python")
    try:
        exec(program, names)
        return float(names["double"](4) == 8)
    except Exception:
        return 0.0


def test_a_grader_that_runs_programs_here_is_found_before_one_can_harm() -> None:
    task = Task(id="double", messages=(UserMessage("Write double(x)."),), reference="8")
    gold = answered(task, "def double(x):\n    return 2 * x")
    found = checked(runs_it_here, [RewardCase(task=task, gold=gold)])
    assert "exploits" not in found
    assert not found["containment"].passed and "UnitTests" in found["containment"].detail
    assert found["gold"].passed


def test_an_exploit_must_earn_no_more_than_a_constant() -> None:
    task = Task(id="double", reference="8")

    async def attempt(task: Task, program: str) -> Scored:
        return Scored(reward=1.0 if "class Yes" in program else 0.5)

    rows = run_async(check_programs(attempt, task, "def double(x): return 2 * x"))
    assert [(row.name, row.passed) for row in rows] == [("containment", True), ("exploits", False)]
    assert "eq_object" in rows[1].detail


def test_rewards_are_found_by_name_and_by_file(tmp_path: Path) -> None:
    path = tmp_path / "my_rewards.py"
    path.write_text(
        "from palaestra.envs.graders import Exact\n"
        "def score(task, episode): return 0.25\n"
        "strict = Exact()\n"
        "class Lax(Exact): pass\n"
        "number = 5\n"
    )
    task, episode = CASES[0].task, CASES[0].gold

    def reward(name: str) -> float:
        return run_async(load_reward(f"{path}:{name}").grade(task, episode, None)).reward

    assert load_reward("exact_match") == Exact()
    assert (reward("score"), reward("strict"), reward("Lax")) == (0.25, 0.0, 0.0)
    for name, problem in {
        f"{path}:number": "is 5, which is neither a function nor a grader",
        f"{path}:none": "has no 'none'",
        f"{tmp_path / 'other.py'}:x": "there is no file",
        "exactly": "the presets are: code, exact_match",
        "no_such_module_here:x": "cannot be loaded: ModuleNotFoundError",
    }.items():
        with pytest.raises(UnknownReward, match=problem):
            load_reward(name)


def test_a_row_s_task_is_that_of_training_whatever_its_form(tmp_path: Path) -> None:
    parts = {"role": "user", "content": [{"type": "text", "text": "2 + 3\u2028"}, {"text": "= ?"}]}
    rows = [
        {"prompt": [SYSTEM, user("2 + 2?")], "reward_model": {"ground_truth": "4"}, "level": 1},
        {"messages": [SYSTEM, parts], "reference_answer": 5, "id": "b"},
        {"prompt": "Double.", "reference_answer": ["assert f(1) == 2"], "gold": "def f(x): return 2 * x"},
        {"prompt": "2 + 4?", "metadata": {"reference_answer": "6"}},
    ]
    path = tmp_path / "tasks.jsonl"
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    cases = Rows(data=str(path)).cases(20)
    assert [each.task for each in cases] == list(read_tasks(path))
    assert [each.answer for each in cases] == ["4", "5", "def f(x): return 2 * x", "6"]
    assert [type(each) for each in cases[1].gold.messages] == [SystemMessage, UserMessage, AssistantMessage]
    assert cases[1].gold.messages[1].content == "2 + 3\u2028= ?"
    assert len(Rows(data=str(path)).cases(2)) == 2


def test_rows_of_tables_and_fields_of_other_names_are_tried_too(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("question,solution\n2 + 2?,4\n2 + 3?,5\n")
    found = Rows(
        data=str(tmp_path / "a.csv"), prompt="question", reference="solution", gold="solution"
    ).cases(9)
    assert [(each.task.prompt_text, each.task.reference, each.answer) for each in found] == [
        ("2 + 2?", "4", "4"),
        ("2 + 3?", "5", "5"),
    ]
    parquet: Any = import_module("pyarrow.parquet")
    table: Any = import_module("pyarrow").Table.from_pylist(
        [{"prompt": "2 + 2?", "reference_answer": {"answer": "4", "unit": None}}]
    )
    parquet.write_table(table, tmp_path / "a.parquet")
    (only,) = Rows(data=str(tmp_path / "a.parquet"), gold="reference_answer.answer").cases(9)
    assert (only.task.reference, only.answer) == ({"answer": "4"}, "4")


def test_rows_are_drawn_from_all_of_a_dataset_and_the_same_ones_again(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": f"{n}", "answer": n, "id": n}) for n in range(400)))
    drawn = [[int(each.task.id) for each in Rows(data=str(path)).cases(40)] for _ in range(2)]
    assert drawn[0] == drawn[1] and len(set(drawn[0])) == 40
    assert 130 < sum(drawn[0]) / 40 < 270


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", r"tasks\.jsonl:1: no JSON"),
        ("{}", r"tasks\.jsonl:1: messages: neither `messages` nor `prompt` is there"),
        ('{"prompt": "q", "answer": ["x"], "id": 7}', r"task '7': gold: \['x'\] is no text; .* with --gold"),
        ('{"prompt": "q"}', "gold: None is no text"),
        ("", "holds no row"),
    ],
)
def test_a_row_without_a_task_or_a_right_answer_is_named(line: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_text(line)
    with pytest.raises((DatasetError, RecipeError), match=problem):
        Rows(data=str(path)).cases(20)


def test_tasks_come_from_one_place() -> None:
    for rows, env in ((None, None), (Rows(data="x"), "frozen-lake")):
        with pytest.raises(RecipeError, match="give --data FILE, or --env NAME"):
            run_async(find_cases(rows, env, 5))


def test_a_reward_that_never_has_a_number_passes_nothing_but_the_clock() -> None:
    cases = [RewardCase(task=Task(id=each.task.id), gold=each.gold) for each in CASES]
    rows = checked(Exact(), cases)
    assert [name for name, row in rows.items() if row.passed] == ["time"]
    assert "has no reference to compare with" in rows["gold"].detail
