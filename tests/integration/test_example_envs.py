"""The small examples: their size, their format, and an episode each."""

import importlib.util
import subprocess
import sys
from types import ModuleType
from typing import Any

import pytest
from support import ROOT, run_async

from palaestra.envs import Env, Episode, Policy, Scored, ScriptedPolicy, Task, call_tool, play
from palaestra.envs.graders import grade_episode


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def reward(env: Env[Any], policy: Policy, task: Task) -> float:
    async def main() -> tuple[Episode, Any]:
        episode = await play(env, policy, task, seed=0)
        return episode, await grade_episode(env.grader, task, episode)

    episode, outcome = run_async(main())
    assert isinstance(outcome, Scored), (outcome, episode)
    return outcome.reward


@pytest.mark.parametrize(
    ("name", "most"), [("single_turn_env", 12), ("tool_env", 25), ("sandboxed_code_env", 30)]
)
def test_an_environment_fits_in_a_few_formatted_lines(name: str, most: int) -> None:
    path = ROOT / "examples" / f"{name}.py"
    assert len(path.read_text().splitlines()) <= most
    for check in (["format", "--check"], ["check"]):
        subprocess.run([sys.executable, "-m", "ruff", *check, str(path)], check=True, capture_output=True)


def test_the_single_turn_example() -> None:
    capitals = load("single_turn_env").Capitals
    task = capitals.tasks().by_id("Japan")
    assert reward(capitals(), ScriptedPolicy(["tokyo"]), task) == 1.0
    assert reward(capitals(), ScriptedPolicy(["Kyoto"]), task) == 0.0


def test_the_tool_example() -> None:
    shop = load("tool_env").Shop
    (task,) = shop.tasks()
    calls = [call_tool("count", fruit=fruit) for fruit in ("figs", "plums")]
    assert reward(shop(), ScriptedPolicy([*calls, "12 and 7 make 19"]), task) == 1.0
    assert reward(shop(), ScriptedPolicy(["12"]), task) == 0.0


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("echo 'import sys; print(*sorted(sys.stdin.read().split()))' > sort.py", 1.0),
        ("echo 'print(input())' > sort.py", 0.0),
        ("echo 'raise SystemExit' > sort.py", 0.0),
        ("ln -s /etc/passwd sort.py; mkfifo b; exit 3", 0.0),
    ],
)
def test_the_sandboxed_example(command: str, expected: float) -> None:
    coder = load("sandboxed_code_env").Coder
    (task,) = coder.tasks()
    assert reward(coder(), ScriptedPolicy([call_tool("bash", command=command), "done"]), task) == expected
