"""Environments by name, and their tasks: what is refused, and in which words."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from palaestra.envs import Task, TaskSet, load_env
from palaestra.envs.registry import UnknownEnv


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nope", "unknown env 'nope'; installed: arithmetic, "),
        (":B", "names no module"),
        ("..a:B", "names no module"),
        ("a\0:B", "names no module"),
        ("no_such_module:B", "No module named 'no_such_module'; is its folder on PYTHONPATH?"),
        ("rooms:Nope", "rooms has no 'Nope'"),
        ("rooms:", "rooms has no ''"),
        ("rooms:TASK", "which is not a subclass of palaestra.envs.Env"),
    ],
)
def test_a_name_without_an_environment_is_refused(name: str, said: str) -> None:
    with pytest.raises(UnknownEnv) as refused:
        load_env(name)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("stem", "source", "said"),
    [
        ("divides", "x = 1\n1 / 0\n", "ZeroDivisionError: division by zero, in {file}, line 2"),
        ("misspells", "def (:\n", "SyntaxError: "),
        (
            "leaves",
            "import sys; sys.exit(0)\n",
            "sys.exit(0) was called; code in a run must raise instead, in {file}, line 1",
        ),
        ("asks", "import no_such_package\n", "No module named 'no_such_package'"),
    ],
)
def test_a_module_that_breaks_is_refused_and_named(
    stem: str, source: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / f"{stem}.py"
    file.write_text(source)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(UnknownEnv) as refused:
        load_env(f"{stem}:Room")
    assert f"env '{stem}:Room' cannot be loaded" in str(refused.value)
    assert said.format(file=file) in str(refused.value)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: [Task(id="a"), Task(id="a")], "task id 'a' stands twice"),
        (lambda: [Task(id=5)], "task id 5 is no text in UTF-8; give each task a str, as in id=str(5)"),  # type: ignore[arg-type]  # that is the point
        (lambda: [Task(id="a\ud800")], "is no text in UTF-8"),
        (lambda: ["a"], "a task set holds 'a'; it must hold palaestra.envs.Task"),
    ],
)
def test_a_task_that_no_run_file_can_name_is_refused(make: Callable[[], Any], said: str) -> None:
    with pytest.raises(ValueError) as refused:
        TaskSet(make())
    assert said in str(refused.value)
