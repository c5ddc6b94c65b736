"""`check_reward` on graders of programs: the whole corpus of exploits, in real sandboxes."""

import pytest
from embedded_box import need
from support import run_async

from palaestra.envs import Task, UserMessage
from palaestra.envs.graders import UnitTests
from palaestra.envs.graders.check_reward import RewardCase, answered, check_reward
from palaestra.envs.graders.probes import exploits
from palaestra.sandboxes import SandboxSpec

PROGRAMS = {
    "double": ("def double(x):\n    return 2 * x", ["assert double(2) == 4", "assert double('a') == 'aa'"]),
    "last": (
        "def last(items):\n    return items[-1]",
        ["assert last([1, 2]) == 2", "assert last('xyz') == 'z'"],
    ),
}


def cases() -> list[RewardCase]:
    tasks = [
        Task(id=name, messages=(UserMessage(f"Write {name}."),), reference=tests)
        for name, (_, tests) in PROGRAMS.items()
    ]
    return [
        RewardCase(task=task, gold=answered(task, f"```python\n{PROGRAMS[task.id][0]}\n```"))
        for task in tasks
    ]


@pytest.mark.timeout(300)
def test_unit_tests_pass_every_row_and_no_exploit_earns_anything() -> None:
    need("namespaces")
    grader = UnitTests(timeout_s=2.0, sandbox=SandboxSpec(memory_mb=128))
    rows = {row.name: row for row in run_async(check_reward(grader, cases(), max_grade_s=30.0))}
    assert {name: row.detail for name, row in rows.items() if not row.passed} == {}
    assert rows["containment"].detail == "a program reached no file of this machine"
    assert rows["exploits"].detail == f"{len(exploits())} programs earn nothing"
    assert len(exploits()) > 70
