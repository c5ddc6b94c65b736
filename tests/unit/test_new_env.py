"""`palaestra new env`: what it writes, and what it refuses."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from palaestra.cli.main import app
from palaestra.cli.scaffold import env_package


def made(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["new", "env", *words])
    return done.exit_code, " ".join(done.output.split())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    code, said = made("letter-count", "--at", str(tmp_path))
    assert code == 0 and "palaestra check env letter-count" in said
    return tmp_path / "letter-count"


def test_a_package_has_its_files(folder: Path) -> None:
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()) == [
        "README.md",
        "letter_count/__init__.py",
        "letter_count/env.py",
        "pyproject.toml",
        "recipe.yaml",
        "tests/test_letter_count.py",
    ]


def test_what_it_writes_is_formatted_and_linted(folder: Path) -> None:
    for check in (["format", "--check"], ["check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *check, "--isolated", "--line-length", "110"],
            cwd=folder,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def run_tests(folder: Path) -> subprocess.CompletedProcess[str]:
    kept = {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error"]
    return subprocess.run(command, cwd=folder, env=kept, capture_output=True, text=True)


def test_its_own_tests_pass(folder: Path) -> None:
    done = run_tests(folder)
    assert done.returncode == 0 and "4 passed" in done.stdout, done.stdout + done.stderr


def test_its_own_tests_fail_where_the_oracle_is_wrong(folder: Path) -> None:
    path = folder / "letter_count" / "env.py"
    path.write_text(path.read_text().replace("Answer: {task.reference}", "Answer: 8"))
    done = run_tests(folder)
    assert done.returncode == 1 and "expected reward 1" in done.stdout, done.stdout


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("Letter", "write small letters"),
        ("a--b", "write small letters"),
        ("../evil", "write small letters"),
        ("4ever", "write small letters"),
        ("class", "a word of Python's own"),
        ("arithmetic", "an environment of that name is installed"),
        ("json", "a module 'json' can be imported already"),
    ],
)
def test_a_name_that_cannot_be_is_refused(tmp_path: Path, name: str, why: str) -> None:
    code, said = made(name, "--at", str(tmp_path))
    assert code == 2 and why in said.replace("│ ", "").replace(" │", "")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_over(folder: Path) -> None:
    (folder / "recipe.yaml").write_text("mine")
    code, said = made("letter-count", "--at", str(folder.parent))
    assert code == 2 and "exists already" in said
    assert (folder / "recipe.yaml").read_text() == "mine"


def test_names_of_several_words_make_a_class() -> None:
    assert "class TicTacToe3(ToolEnv[Task])" in env_package("tic-tac-toe3", "0.1.0")["tic_tac_toe3/env.py"]
