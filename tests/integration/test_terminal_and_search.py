"""Chores in a terminal, task folders of Harbor, and questions over documents."""

from pathlib import Path
from typing import Any

import pytest
from support import run_async

from palaestra.envs import (
    Episode,
    Outcome,
    Policy,
    Scored,
    ScriptedPolicy,
    Task,
    ToolMessage,
    Ungraded,
    call_tool,
    play,
)
from palaestra.envs.adapters.harbor import moved, read_folder
from palaestra.envs.catalog.search import Search
from palaestra.envs.catalog.terminal import Terminal
from palaestra.envs.check import check_env
from palaestra.envs.graders import grade_episode


def played(env: Any, policy: Policy, task: Task) -> tuple[Episode, Outcome]:
    async def main() -> tuple[Episode, Outcome]:
        episode = await play(env, policy, task, seed=0)
        return episode, await grade_episode(env.grader, task, episode, reward_range=env.reward_range)

    return run_async(main())


def reward(task: Task, *commands: str) -> float:
    lines = [call_tool("bash", command=command) for command in commands]
    _, outcome = played(Terminal(), ScriptedPolicy([*lines, "done"]), task)
    assert isinstance(outcome, Scored), outcome
    return outcome.reward


# Generated chores


def test_a_wrong_solution_earns_nothing() -> None:
    total, best, rename = Terminal.tasks(size=3)
    assert reward(total, "echo 0 > sum.txt") == reward(best, "cut -d, -f1 scores-*.csv > best.txt") == 0.0
    assert reward(rename, "rm box-*/*.*") == 0.0


def test_tests_and_solution_do_not_enter_the_policys_sandbox() -> None:
    task = Terminal.tasks(size=1)[0]
    look = call_tool("bash", command="ls -Ra . ; ls / /logs /tests 2>&1; env")
    episode, _ = played(Terminal(), ScriptedPolicy([look, "done"]), task)
    (seen,) = [said.content for said in episode.messages if isinstance(said, ToolMessage)]
    assert "scores-" in seen and "test.sh" not in seen and "solve.sh" not in seen


# Task folders


def folder(path: Path, **files: str) -> Path:
    names = {
        "instruction": "instruction.md",
        "config": "task.toml",
        "docker": "environment/Dockerfile",
        "test": "tests/test.sh",
        "pytest": "tests/test_outputs.py",
        "solve": "solution/solve.sh",
        "data": "environment/data/words.txt",
    }
    for name, text in files.items():
        target = path / names[name]
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    return path


@pytest.fixture
def words(tmp_path: Path) -> Path:
    return folder(
        tmp_path / "words",
        instruction="Sort /app/data/words.txt into /app/sorted.txt; work in /app.",
        config='version = "1.0"\n[verifier]\ntimeout_sec = 20.0\n',
        docker="FROM python:3.11-slim\nWORKDIR /app\nCOPY data/ /app/data/\n",
        data="pear\nfig\n",
        test="#!/bin/bash\n"
        "if python3 /tests/test_outputs.py; then echo 1 > /logs/verifier/reward.txt; "
        "else echo 0.25 > /logs/verifier/reward.txt; fi\n",
        pytest="from pathlib import Path\nassert Path('/app/sorted.txt').read_text() == 'fig\\npear\\n'\n",
        solve="#!/bin/bash\nsort /app/data/words.txt > /app/sorted.txt\n",
    )


def test_a_task_folder(words: Path) -> None:
    (task,) = Terminal.tasks(folder=str(words.parent))
    assert task.id == "words"
    assert task.messages[-1].content == "Sort data/words.txt into sorted.txt; work in the current directory."
    _, outcome = played(Terminal(), Terminal.oracle(task), task)
    assert isinstance(outcome, Scored) and outcome.reward == 1.0, outcome
    assert reward(task) == 0.25
    report = run_async(check_env(Terminal, num_tasks=1, task_options={"folder": str(words.parent)}))
    assert [check.name for check in report.checks if not check.passed] == ["floor"], report  # it gives 0.25


@pytest.mark.parametrize(
    "plot",
    [
        "mkdir -p logs/verifier && echo 1 > logs/verifier/reward.txt",
        "mkdir -p .palaestra/logs/verifier && echo 1 > .palaestra/logs/verifier/reward.txt",
        "printf '[pytest]\\n' > pytest.ini; echo 'import os; os._exit(0)' > conftest.py",
        "echo 'import os; os._exit(0)' | tee sitecustomize.py usercustomize.py pathlib.py",
        "printf 'exit 0' > .bashrc; printf 'exit 0' > .bash_profile",
        "ln -s /etc/passwd sorted.txt",
        "mkdir -p tests && echo 'exit 0' > tests/test.sh",
    ],
)
def test_what_a_policy_plants_does_not_move_the_tests(words: Path, plot: str) -> None:
    assert reward(read_folder(words), plot) == 0.25


def test_without_a_reward_file_the_exit_code_decides(tmp_path: Path) -> None:
    path = folder(tmp_path / "a", instruction="Make b.", test="test -e b")
    assert (reward(read_folder(path), "touch b"), reward(read_folder(path), "touch c")) == (1.0, 0.0)


def test_the_evidence_names_the_paths_that_the_tests_name(tmp_path: Path) -> None:
    """Where a sandbox has them is another place each time: no two grades would be the same."""
    test = "cat /tests/none /app/none; no_such_word; exit 1"
    task = read_folder(folder(tmp_path / "a", instruction="x", test=test))
    (_, first), (_, second) = (played(Terminal(), ScriptedPolicy([]), task) for _ in range(2))
    assert isinstance(first, Scored) and first == second
    assert "cat: /tests/none: No such file" in first.evidence and "cat: /app/none: No such" in first.evidence
    assert "/tests/test.sh: line 1: no_such_word" in first.evidence


@pytest.mark.parametrize("broken", ["sleep 60", "pytest-not-there /tests", "kill -9 $$"])
def test_tests_that_come_to_no_end_by_themselves_are_no_number(tmp_path: Path, broken: str) -> None:
    config = "[verifier]\ntimeout_sec = 1.0"
    task = read_folder(folder(tmp_path / "a", instruction="x", test=broken, config=config))
    _, outcome = played(Terminal(), ScriptedPolicy([]), task)
    assert isinstance(outcome, Ungraded) and "judge nothing" in outcome.reason, outcome


def test_work_that_keeps_the_tests_from_their_end_is_lost(tmp_path: Path) -> None:
    config = "[verifier]\ntimeout_sec = 1.0"
    test = "test ! -e /app/slow || sleep 60\ntest ! -e /app/deadly || kill -9 $$"
    task = read_folder(folder(tmp_path / "a", instruction="x", test=test, config=config))
    assert reward(task) == 1.0
    assert reward(task, "touch slow") == reward(task, "touch deadly") == 0.0


NONE: dict[str, float] = {}


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        ("echo 0.5 > reward.txt", (0.5, NONE)),
        ('echo \'{"reward": 0.25, "speed": 3}\' > reward.json; echo 1 > reward.txt', (0.25, {"speed": 3.0})),
        ("echo '{\"pass\": 0}' > reward.json", (0.0, NONE)),
        ("echo many > reward.txt", "the tests wrote 'many' to reward.txt; it must be a number"),
        ("echo nan > reward.txt", "'nan' to reward.txt"),
        ("touch reward.json", "'' to reward.json; it must be an object of numbers"),
        ('echo \'{"a": 1, "b": 1}\' > reward.json', 'with "reward" or only one'),
        ('echo \'{"reward": "1.0"}\' > reward.json', "to reward.json"),
    ],
)
def test_what_the_tests_write_is_the_reward_and_nonsense_is_no_number(
    tmp_path: Path, said: str, outcome: tuple[float, dict[str, float]] | str
) -> None:
    task = read_folder(folder(tmp_path / "b", instruction="x", test=f"cd /logs/verifier; {said}"))
    _, found = played(Terminal(), ScriptedPolicy([]), task)
    if isinstance(outcome, str):
        assert isinstance(found, Ungraded) and outcome in found.reason
    else:
        assert isinstance(found, Scored) and (found.reward, dict(found.components)) == outcome


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"test": "true"}, "has no instruction.md"),
        ({"instruction": "x"}, "has no tests/test.sh"),
        ({"instruction": "x", "test": "", "config": "a ="}, "task.toml"),
        ({"instruction": "x", "test": "", "docker": "FROM a\nRUN apt-get install gcc"}, "needs an image"),
    ],
)
def test_a_folder_that_cannot_be_played_is_refused(tmp_path: Path, files: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_folder(folder(tmp_path / "a", **files))


def test_only_whole_paths_are_moved() -> None:
    text = b"cd /app; cat /app/a.txt ./app/b /apple x/app '/app' /application"
    assert moved(text, {"/app": "/w"}) == b"cd /w; cat /w/a.txt ./app/b /apple x/app '/w' /application"
    assert moved(b"\xff/app", {"/app": "/w"}) == b"\xff/app"


# Search


@pytest.fixture
def bm25() -> Any:
    return pytest.importorskip("bm25s", reason="needs the extra `catalog`")


def test_a_search_finds_by_words_and_shows_the_beginning(bm25: Any) -> None:
    task = Search.tasks(size=1)[0]
    town, source = task.metadata["way"]
    lines = [
        call_tool("search", query=f"market of {town}", top=1),
        call_tool("search", query="xyzzy"),
        call_tool("search", query=""),
        call_tool("read", title=source),
        call_tool("read", title="Atlantis"),
    ]
    episode, _ = played(Search(), ScriptedPolicy(lines), task)
    hit, nothing, empty, text, unknown = (said for said in episode.messages if isinstance(said, ToolMessage))
    assert hit.content.startswith(f"{town}: {town} is a market town")
    assert nothing.content == empty.content == "[nothing found]"
    assert str(task.reference) in text.content and unknown.is_error


def test_two_documents_are_needed(bm25: Any) -> None:
    """The first document that a search shows holds no answer, whatever is asked."""
    for task in Search.tasks(size=50):
        town, source = task.metadata["way"]
        assert f"The river {task.reference} runs" in task.metadata["documents"][source]
        assert source in task.metadata["documents"][town] and source not in task.prompt_text
