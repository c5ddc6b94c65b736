"""The environment `code`: oracle and floor on real programs, and what a policy hears of a wrong one."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from support import data_path, require, run_async

from palaestra.envs import (
    Episode,
    Outcome,
    Policy,
    Scored,
    ScriptedPolicy,
    StopReason,
    Task,
    TaskSet,
    UserMessage,
    play,
)
from palaestra.envs.catalog.code import Code
from palaestra.envs.graders import grade_episode
from palaestra.envs.message import SystemMessage

AT_ONCE = 8
NUM_TASKS = 100


async def played(policy: Policy, task: Task, **options: Any) -> tuple[Episode, Outcome]:
    env = Code(**options)
    episode = await play(env, policy, task, seed=0)
    return episode, await grade_episode(env.grader, task, episode, reward_range=env.reward_range)


def rewards(tasks: TaskSet, policy: Any) -> list[float | str]:
    """By task, several at once; the words of an outcome that is no score."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(task: Task) -> float | str:
        async with slots:
            _, outcome = await played(policy(task), task)
        return outcome.reward if isinstance(outcome, Scored) else str(outcome)

    async def main() -> list[float | str]:
        return await asyncio.gather(*map(one, tasks))

    return run_async(main())


def nothing(task: Task) -> Policy:
    return ScriptedPolicy([])


def rows_file(folder: Path, *rows: dict[str, Any]) -> str:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


ROW: dict[str, Any] = {
    "task_id": 1,
    "text": "Write a function that greets.",
    "code": "def greet(name): return 'Secret-' + name",
    "test_list": ["assert greet('ann') == 'Secret-ann'", "assert greet('bob') == 'Secret-bob'"],
}


@pytest.fixture
def greeting(tmp_path: Path) -> Task:
    return Code.tasks(path=rows_file(tmp_path, ROW))[0]


@pytest.mark.data
@pytest.mark.acceptance
@pytest.mark.timeout(1800)
def test_oracle_and_floor_on_all_of_mbpp() -> None:
    require("data")
    tasks = Code.tasks(path=str(data_path("mbpp", "mbpp.jsonl")))
    assert rewards(tasks, Code.oracle) == [1.0] * 474
    assert rewards(tasks, nothing) == [0.0] * 474


def test_a_second_try_hears_what_the_first_did_and_not_what_was_expected(greeting: Task) -> None:
    wrong = "```python\ndef greet(name): return 7 if name == 'ann' else 1 / 0\n```"
    right = f"Better:\n```python\n{ROW['code']}\n```"
    episode, outcome = run_async(played(ScriptedPolicy([wrong, right]), greeting))
    assert isinstance(outcome, Scored) and outcome.reward == 1.0
    assert (episode.stop, episode.num_turns) == (StopReason.DONE, 2)
    heard = [message.content for message in episode.messages if isinstance(message, UserMessage)][1:]
    assert heard == [
        "0 of 2 tests passed. Failed:\ngreet('ann'): answered 7\ngreet('bob'): raised ZeroDivisionError"
    ]


@pytest.mark.parametrize(
    "program",
    [
        "",
        "def greet(name): return None",
        "def greet(name): raise ValueError(name)",
        "def greet(name): raise SystemExit(0)",
        "def greet(name):\n  while True: pass",
        "import sys\ndef greet(name): return [str(f.f_locals) for f in sys._current_frames().values()]",
        "import gc\ndef greet(name): return [o for o in gc.get_objects() if 'Secret' in str(o)[:99]]",
        "def greet(name): return open('/proc/self/environ').read() + open('/proc/self/cmdline').read()",
        "def greet(name:",
    ],
)
def test_no_expected_value_reaches_the_policy(greeting: Task, program: str) -> None:
    episode, outcome = run_async(played(ScriptedPolicy([program] * 3), greeting, tries=2))
    assert isinstance(outcome, Scored) and outcome.reward == 0.0
    shown = [message.content for message in episode.messages if message.role != "assistant"]
    assert len(shown) == 3 and "0 of 2 tests passed" in shown[-1]
    assert not any("Secret-" in text for text in shown)


def test_tries_run_out_and_the_last_program_counts(greeting: Task) -> None:
    right = f"```python\n{ROW['code']}\n```"
    for tries, reward in ((2, 0.0), (3, 1.0)):
        lines = ["def greet(name): return 1"] * 2 + [right]
        episode, outcome = run_async(played(ScriptedPolicy(lines), greeting, tries=tries))
        assert isinstance(outcome, Scored) and outcome.reward == reward
        assert (episode.stop, episode.num_turns) == (StopReason.DONE, tries)
    with pytest.raises(ValueError, match="tries=0"):
        Code(tries=0)


def test_a_program_that_attacks_the_tests_ends_the_episode_and_earns_the_floor(greeting: Task) -> None:
    twice = "import os\ndef greet(name):\n  if os.fork(): os.wait()\n  return 0"
    episode, outcome = run_async(played(ScriptedPolicy([twice]), greeting))
    assert episode.stop is StopReason.DONE and isinstance(outcome, Scored) and outcome.reward == 0.0


def test_a_task_shows_the_request_and_one_call_without_its_value(greeting: Task) -> None:
    assert isinstance(greeting.messages[0], SystemMessage)
    assert greeting.messages[1].content == "Write a function that greets.\nIt is called as in greet('ann')"
    assert "Secret" not in greeting.prompt_text


def test_setup_code_and_imports_run_before_the_tests(tmp_path: Path) -> None:
    row = ROW | {
        "prompt": "Greet.",
        "test_imports": ["import math"],
        "test_setup_code": "n = 'ann'",
        "test_list": ["assert greet(n) + str(math.floor(2.5)) == 'Secret-ann2'"],
    }
    del row["text"]
    (task,) = Code.tasks(path=rows_file(tmp_path, row), instructions="")
    assert rewards(TaskSet([task]), Code.oracle) == [1.0]
    assert [message.role for message in task.messages] == ["user"]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"text": ""}, "line 2: text"),
        ({"test_list": []}, "line 2: test_list"),
        ({"test_list": ["assert greet('a')"]}, "is not of the form `assert call == expected`"),
        ({"test_list": ["assert ("]}, "line 2: test_list: the test 'assert ('"),
        ({"task_id": None}, "line 2: task_id"),
    ],
)
def test_a_bad_row_is_named_by_file_line_and_field(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    path = rows_file(tmp_path, ROW, ROW | {"task_id": 2} | row)
    with pytest.raises(ValueError) as refused:
        Code.tasks(path=path)
    assert said in str(refused.value) and path in str(refused.value)


def test_a_row_without_a_program_has_no_oracle_but_is_a_task(tmp_path: Path) -> None:
    (task,) = Code.tasks(path=rows_file(tmp_path, ROW | {"code": ""}))
    with pytest.raises(ValueError, match="give its row a field `code`"):
        Code.oracle(task)


def test_made_up_requests_follow_their_seed_and_are_all_different() -> None:
    tasks = Code.tasks(size=216)
    assert len({task.prompt_text for task in tasks}) == 216
    assert Code.tasks(size=5)[3] == Code.tasks(size=5)[3]
    assert Code.tasks(size=5)[0].prompt_text != Code.tasks(size=5, seed=1)[0].prompt_text
    with pytest.raises(ValueError, match="ask for 1 to 216"):
        Code.tasks(size=217)
