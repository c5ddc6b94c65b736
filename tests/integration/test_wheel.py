"""The wheel in an empty environment: what a user gets from `pip install palaestra`, without torch."""

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from support import ROOT

SOURCES = ("sandboxes", "envs", "agents", "trainer", "cli", "pyproject.toml", "README.md", "LICENSE")
OFFLINE = ("NewConnectionError", "ConnectTimeoutError", "NameResolutionError", "ProxyError")
"""What pip says when it reaches no index."""

EPISODE = """
import asyncio, importlib.util, sys
import palaestra.agents, palaestra.cli, palaestra.cli.main, palaestra.trainer.recipe
from palaestra.envs import ScriptedPolicy, call_tool, load_env, play
from palaestra.envs.graders import grade_episode
from palaestra.envs.graders.probes import exploits

assert len(exploits()) > 70
assert importlib.util.find_spec("torch") is None
assert palaestra.cli.__file__.startswith(sys.prefix), palaestra.cli.__file__

async def reward(env_class, policy, task):
    env = env_class()
    return (await grade_episode(env.grader, task, await play(env, policy, task, seed=0))).reward

lake = load_env("frozen-lake")
(map,) = lake.tasks()
assert asyncio.run(reward(lake, lake.oracle(map), map)) == 1.0

for name in ("finqa", "gsm8k", "gsm8k-calculator", "sql"):
    room = load_env(name)
    for task in room.tasks():
        assert asyncio.run(reward(room, room.oracle(task), task)) == 1.0

coder = load_env("sandboxed_code_env:Coder")
(task,) = coder.tasks()
command = "echo 'import sys; print(*sorted(sys.stdin.read().split()))' > sort.py"
policy = ScriptedPolicy([call_tool("bash", command=command), "done"])
assert asyncio.run(reward(coder, policy, task)) == 1.0
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that holds the wheel and what it requires."""
    folder = tmp_path_factory.mktemp("wheel")
    wheel = build_wheel(folder)
    run(sys.executable, "-m", "venv", str(folder / "venv"))
    programs = folder / "venv" / "bin"
    install(programs, str(wheel))
    return programs


@pytest.mark.timeout(600)
def test_the_wheel_works_in_an_empty_environment(installed: Path, tmp_path: Path) -> None:
    said = run(str(installed / "palaestra"), "--help", at=tmp_path)
    assert all(command in said for command in ("train", "eval", "play", "replay", "check", "new"))
    python = str(installed / "python")
    run(python, "-P", "-W", "error", "-c", EPISODE, at=tmp_path, PYTHONPATH=str(ROOT / "examples"))


@pytest.mark.timeout(600)
def test_a_new_environment_is_a_package_that_pip_installs(installed: Path, tmp_path: Path) -> None:
    palaestra = str(installed / "palaestra")
    run(palaestra, "new", "env", "word-count", at=tmp_path)
    install(installed, str(tmp_path / "word-count"))
    report = json.loads(run(palaestra, "check", "env", "word-count", "--tasks", "5", "--json", at=tmp_path))
    assert report["passed"] and len(report["checks"]) >= 8
    found = run(str(installed / "python"), "-P", "-c", "import word_count; print(word_count.__file__)")
    assert found.startswith(str(installed.parent / "lib")), "it is the installed one that was checked"


def install(programs: Path, what: str) -> None:
    python = str(programs / "python")
    pip_or_skip(python, "-m", "pip", "install", "--quiet", "-c", str(ROOT / "constraints.txt"), what)


def build_wheel(folder: Path) -> Path:
    """A wheel of a copy: building leaves folders behind, and the installed package of these tests alone."""
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, source / name)
    options = ["--no-isolation"] if has_setuptools() else []
    pip_or_skip(sys.executable, "-m", "build", "--wheel", *options, "--outdir", str(folder), str(source))
    (wheel,) = folder.glob("palaestra-*.whl")
    return wheel


def has_setuptools() -> bool:
    """Here, and new enough for pyproject.toml; otherwise the index has it."""
    try:
        return int(version("setuptools").split(".")[0]) >= 77
    except PackageNotFoundError:
        return False


def pip_or_skip(*command: str) -> None:
    """Run pip, or what asks it. Skips where no package index can be reached, except in CI."""
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    said = done.stdout + done.stderr
    if done.returncode and any(word in said for word in OFFLINE) and "PALAESTRA_REQUIRE" not in os.environ:
        pytest.skip(f"needs a package index: {said.strip().splitlines()[-1]}")
    assert done.returncode == 0, said


def run(*command: str, at: Path | None = None, **variables: str) -> str:
    done = subprocess.run(command, cwd=at, env=environment(**variables), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def environment(**variables: str) -> dict[str, str]:
    """Ours without what would let the installed packages of these tests in."""
    hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    return kept | {"PYTHONSAFEPATH": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"} | variables
