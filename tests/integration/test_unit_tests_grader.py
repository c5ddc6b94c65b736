"""`UnitTests` against programs that do anything but solve the task."""

import ast
import secrets
from pathlib import Path
from typing import Any

import pytest
from embedded_box import need, on_each_tier
from support import require, run_async

from palaestra.envs import (
    AssistantMessage,
    Episode,
    Failed,
    Score,
    Scored,
    StopReason,
    Tampered,
    Task,
    Ungraded,
    Workspace,
)
from palaestra.envs.graders import Rubric, UnitTests, _candidate, grade_episode
from palaestra.envs.graders.probes import exploits
from palaestra.sandboxes import ExecResult, Sandbox, SandboxLost, SandboxSpec, local, open_sandbox

SMALL = SandboxSpec(memory_mb=128)


PROGRAMS = exploits()


def said(program: str, files: tuple[tuple[str, bytes], ...] = ()) -> Episode:
    messages = (AssistantMessage(program),)
    workspace = Workspace(files=files)
    return Episode(task_id="t", seed=0, messages=messages, stop=StopReason.DONE, workspace=workspace)


def grade(
    program: str, *tests: str, setup: str = "", floor: float = 0.0, **options: Any
) -> Scored | Ungraded | Failed:
    task = Task(id="t", reference=list(tests), private={"setup": setup})
    settings: dict[str, Any] = {"sandbox": SMALL, "timeout_s": 5.0, **options}
    grader = UnitTests(**settings)
    return run_async(grade_episode(grader, task, said(program), reward_range=(floor, 1.0)))


def reward(program: str, *tests: str, **options: Any) -> float:
    outcome = grade(program, *tests, **options)
    assert isinstance(outcome, Scored), outcome
    return outcome.reward


def secret_tests() -> tuple[int, list[str]]:
    """A value that a program can only find or be given, and the tests for it."""
    secret = secrets.randbelow(1 << 60) + (1 << 62)  # 19 digits, which the searches look for
    return secret, [f"assert f(1) == {secret}", f"assert f(2) == [{secret}, 'x']"]


@on_each_tier
@pytest.mark.parametrize("name", PROGRAMS)
def test_an_exploit_earns_nothing(name: str, tier: str) -> None:
    need(tier)
    _, tests = secret_tests()
    spec = SandboxSpec(memory_mb=128, backend=tier)
    outcome = grade(PROGRAMS[name], *tests, partial_credit=True, sandbox=spec, timeout_s=1.0)
    assert isinstance(outcome, Scored), outcome
    assert outcome.reward == 0.0, outcome.evidence


SEARCH = """
import os, re
def f(whose):
    pid = os.getpid() if whose == "mine" else os.getppid()
    with open(f"/proc/{pid}/mem", "rb", 0) as memory, open(f"/proc/{pid}/maps") as maps:
        for line in maps:
            low, high = (int(part, 16) for part in line.split()[0].split("-"))
            if " rw" in line:
                memory.seek(low)
                if found := re.search(b"BEGINNING"[::-1] + b"[0-9a-f]{24}", memory.read(high - low)):
                    return found[0].decode()
"""


@pytest.mark.parametrize("whose", ["mine", "the harness's"])
def test_the_expected_value_is_in_no_process_that_the_program_can_read(whose: str) -> None:
    need("namespaces")
    secret = secrets.token_hex(16)
    tests = [f"assert f({whose!r}) == {secret!r}"]
    search = SEARCH.replace("BEGINNING", secret[:8][::-1])
    assert reward(search, *tests, sandbox=SandboxSpec(backend="namespaces")) == 0.0
    # The search works: it finds what the task hands over.
    setup = f"hint = {secret!r}"
    assert reward(search, *tests, setup=setup, sandbox=SandboxSpec(backend="namespaces")) == 1.0


@pytest.mark.docker
def test_exploits_earn_nothing_in_a_container_either() -> None:
    require("docker")
    spec = SandboxSpec(memory_mb=128, backend="docker")
    secret, tests = secret_tests()
    known = f"def f(x): return {secret} if x == 1 else [{secret}, 'x']"
    assert reward(known, *tests, sandbox=spec) == 1.0
    for name in ("eq_object", "exec_true", "kill_the_parent", "nonce_of_the_parent", "memory_of_the_parent"):
        assert reward(PROGRAMS[name], *tests, sandbox=spec, timeout_s=2.0) == 0.0, name


@on_each_tier
def test_who_knows_the_answers_passes_the_same_tests(tier: str) -> None:
    need(tier)
    secret, tests = secret_tests()
    program = f"def f(x): return {secret} if x == 1 else [{secret}, 'x']"
    assert reward(program, *tests, sandbox=SandboxSpec(backend=tier)) == 1.0


def test_there_are_sixty_exploits_and_they_fool_a_grader_that_asserts_in_the_program_s_process() -> None:
    """Else the table would show nothing."""

    async def fooled(name: str) -> bool:
        script = "\n".join([PROGRAMS[name], *secret_tests()[1]])
        async with open_sandbox(SMALL) as box:
            return (await box.run(["python3", "-c", script], timeout_s=0.5)).ok

    assert len(PROGRAMS) >= 60
    names = ["eq_object", "mock_any", "system_exit", "os_exit_in_the_call", "exec_true", "excepthook_exit"]
    names += [
        "frame_walk_constants",
        "verdict_on_stdout",
        "eq_object_with_hash_and_bool",
    ]
    assert [name for name in names if not run_async(fooled(name))] == []


@pytest.mark.parametrize(
    "name", ["verdict_on_every_descriptor", "key_from_the_frame", "answer_twice", "report_of_the_parent"]
)
def test_evidence_of_tampering_is_scored_the_floor(name: str) -> None:
    twice = "import os\ndef f(x):\n  if os.fork(): os.wait()\n  return 0"
    need("namespaces")
    outcome = grade(
        {**PROGRAMS, "answer_twice": twice}[name],
        *secret_tests()[1],
        floor=-2.0,
        sandbox=SandboxSpec(backend="namespaces"),
    )
    assert isinstance(outcome, Scored)
    assert outcome.reward == -2.0 and outcome.evidence.startswith("tampered: ")
    assert "true" in outcome.evidence or "answered" in outcome.evidence


def test_a_wrong_answer_is_no_tampering_and_scores_zero_above_the_floor() -> None:
    outcome = grade("def f(x): return 3", "assert f(1) == 4", floor=-2.0)
    assert isinstance(outcome, Scored) and outcome.reward == 0.0
    assert outcome.evidence == "0 of 1 tests passed; f(1): answered 3, expected 4"


def test_tampering_with_one_part_of_a_rubric_is_tampering() -> None:
    class Attacked:
        async def grade(self, task: Task, episode: Episode, workspace: Workspace | None) -> Score:
            raise Tampered("a forged line")

    grader = Rubric(a=(0.5, Attacked()), b=(0.5, UnitTests(sandbox=SMALL)))
    task = Task(id="t", reference=["assert f() == 1"])
    outcome = run_async(grade_episode(grader, task, said("f = lambda: 1")))
    assert isinstance(outcome, Scored) and outcome.reward == 0.0  # no floor is declared
    assert outcome.evidence == "tampered: rubric part 'a': Tampered: a forged line"


@pytest.mark.parametrize(
    ("answer", "expected", "is_right"),
    [
        ("4", "4", True),
        ("4.0", "4", True),
        ("4", "4.0", True),
        ("True", "1", False),
        ("1", "True", False),
        ("[1]", "(1,)", False),
        ("(1, [2.0])", "(1.0, [2])", True),
        ("{1: {2}}", "{1.0: {2}}", True),
        ("{True: 0}", "{1: 0}", False),
        ("{1, 2}", "{2, 1}", True),
        ("frozenset({1})", "{1}", False),
        ("{'b': 1, 'a': 2}", "{'a': 2, 'b': 1}", True),
        ("__import__('collections').Counter('aab')", "{'a': 2, 'b': 1}", True),
        ("'é\\n\\ud800\"'", "'é\\n\\ud800\"'", True),
        ("b'a'", "'a'", False),
        ("b'a'", "b'a'", True),
        ("1 + 2j", "1 + 2j", True),
        ("float('nan')", "float('nan')", True),
        ("float('inf')", "float('-inf')", False),
        ("2 ** 20000", "2 ** 20000", True),
        ("2 ** 20000 + 1", "2 ** 20000", False),
        ("0.1 + 0.2", "0.3", False),
        ("None", "None", True),
        ("range(2)", "[0, 1]", False),
        ("8 * math.pi", "8 * math.pi", True),
    ],
)
def test_answers_are_compared_by_type_and_value(answer: str, expected: str, is_right: bool) -> None:
    assert reward(f"import math\ndef f(): return {answer}", f"assert f() == {expected}") == float(is_right)


def test_a_long_answer_is_compared_whole_and_one_that_is_too_long_is_wrong() -> None:
    program = "def f(n): return 'ab' * n"
    assert reward(program, f"assert f(500_000) == {'ab' * 500_000!r}") == 1.0
    outcome = grade(program, "assert f(1) == 'ab'", "assert f(1 << 22) == 'ab'", partial_credit=True)
    assert isinstance(outcome, Scored) and outcome.reward == 0.5
    assert "stopped at the size limit" in outcome.evidence


def test_the_harness_keeps_to_the_syntax_of_python_3_8() -> None:
    ast.parse(Path(_candidate.__file__).read_text(), feature_version=(3, 8))


def test_each_test_has_a_process_of_its_own() -> None:
    program = "seen = []\ndef f(x):\n  if x == 2: __import__('os')._exit(0)\n  seen.append(x)\n  return seen"
    tests = [f"assert f({x}) == [{x}]" for x in (1, 2, 3)]
    assert reward(program, *tests, partial_credit=True) == pytest.approx(2 / 3)
    assert reward(program, *tests) == 0.0


def test_setup_runs_behind_the_program_and_one_text_may_hold_several_tests() -> None:
    program = "class Node:\n  n = 1\ndef f(x): return x.n"
    assert reward(program, "assert f(node) == 1\nassert 1 == f(node)", setup="node = Node()") == 1.0


def test_the_program_is_the_last_block_or_a_file_of_the_workspace() -> None:
    text = "First:\n```python\ndef f(): return 1\n```\nBetter:\n```py\ndef f(): return 2\n```\nDone."
    assert reward(text, "assert f() == 2") == 1.0
    assert reward("Here:\n```python\ndef f(): return 2", "assert f() == 2") == 1.0
    task = Task(id="t", reference=["assert f() == 3"])
    episode = said("I wrote it.", files=(("a.py", b"f = lambda: 3"),))
    for name, expected in (("a.py", 1.0), ("b.py", 0.0)):
        grader = UnitTests(file=name, sandbox=SMALL)
        outcome = run_async(grade_episode(grader, task, episode))
        assert isinstance(outcome, Scored) and outcome.reward == expected


@pytest.mark.parametrize(
    "test",
    [
        "assert f(1)",
        "assert f(1) > 2",
        "assert (f(1) == 2) == True",
        "f(1) == 2",
        "x = (",
        "assert f(1) == g(1)",
    ],
)
def test_a_test_whose_expected_value_cannot_be_kept_apart_gives_no_grade(test: str) -> None:
    outcome = grade("f = g = lambda x: 2", test)
    assert isinstance(outcome, Ungraded) and "BadTask" in outcome.reason


def test_a_sandbox_that_is_lost_or_cannot_run_python_gives_no_grade(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(
        grade("f = lambda: 1", "assert f() == 1", sandbox=SandboxSpec(env={"PATH": "/none"})), Ungraded
    )

    async def lost(self: Sandbox, argv: Any, **options: Any) -> ExecResult:
        raise SandboxLost("died under a call")

    monkeypatch.setattr(local.LocalSandbox, "run", lost)
    assert isinstance(grade("f = lambda: 1", "assert f() == 1"), Ungraded)
