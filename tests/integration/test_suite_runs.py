"""`Suite` runs what pytest runs, and says the same of it."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from embedded_box import need
from suites import files_in, grade, scored
from support import require

from palaestra.envs import Ungraded
from palaestra.sandboxes import Sandbox, SandboxLost, SandboxSpec, local
from palaestra.sandboxes.job import Job

HERE = Path(__file__).parent
SAMPLE = files_in(HERE.joinpath("suite_sample.txt").read_text(encoding="utf-8"))


def said_by_pytest(folder: Path) -> tuple[list[str], set[str]]:
    """The ids that the real pytest collects, and those that pass."""
    for name, text in SAMPLE.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def run(*options: str) -> list[str]:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, "tests"]
        env = {**os.environ, "PYTHONPATH": str(folder), "PYTHONSAFEPATH": ""}
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
        return done.stdout.splitlines()

    collected = [line for line in run("--collect-only") if "::" in line]
    passed = {line[len("PASSED ") :] for line in run("-rA", "--tb=no") if line.startswith("PASSED ")}
    return collected, passed


@pytest.mark.parametrize(
    "backend", ["namespaces", "landlock", pytest.param("docker", marks=pytest.mark.docker)]
)
def test_a_suite_of_every_kind_of_test_fares_as_under_pytest(tmp_path: Path, backend: str) -> None:
    if backend == "docker":
        require("docker")
    else:
        need(backend)
    ids, passed = said_by_pytest(tmp_path)
    assert len(ids) >= 65 and len(passed) >= 58
    tests = {name: text for name, text in SAMPLE.items() if name.startswith("tests/")}
    files = {name: text for name, text in SAMPLE.items() if name not in tests}
    spec = SandboxSpec(backend=backend)
    for wanted, reward in (([id for id in ids if id in passed], 1.0), (sorted({*ids} - passed), 0.0)):
        outcome = scored(tests, files, *wanted, sandbox=spec, timeout_s=55, partial_credit=True)
        assert outcome.reward == reward, outcome.evidence


DOUBLE = "f = lambda x: 2 * x"


def run(test: str, program: str = DOUBLE, **options: Any) -> tuple[float, str]:
    """One file of tests, which has imported `f`; its reward and the evidence."""
    text = f"import pytest, unittest\nfrom solution import f\n{test}"
    outcome = scored({"test_a.py": text}, {"solution.py": program}, **options)
    return outcome.reward, outcome.evidence


CASE = "class T(unittest.TestCase):\n "


@pytest.mark.parametrize(
    ("test", "kind"),
    [
        ("def test(): pytest.skip()", "skipped"),
        ("@pytest.mark.skip\ndef test(): pass", "skipped"),
        ("@pytest.mark.skipif(True, reason='x')\ndef test(): pass", "skipped"),
        ("@pytest.mark.xfail\ndef test(): assert f(1) == 2", "skipped"),
        ("@pytest.mark.xfail\ndef test(): assert f(1) == 3", "skipped"),
        ("def test(): pytest.importorskip('nothing')", "skipped"),
        ("def test(): raise unittest.SkipTest", "skipped"),
        (CASE + "@unittest.expectedFailure\n def test(self): self.fail()", "skipped"),
        (CASE + "def test(self):\n  with self.subTest(): self.assertEqual(f(1), 3)", "failed"),
        (CASE + "def setUp(self): self.skipTest('x')\n def test(self): pass", "skipped"),
        ("import nothing\ndef test(): pass", "failed"),
        ("def test(): yield 1", "failed"),
        ("@pytest.fixture\ndef x():\n yield 1\n assert f(1) == 3\ndef test(x): pass", "failed"),
        ("class Test:\n def teardown_method(self): assert 0\n def test(self): pass", "failed"),
        ("@pytest.mark.parametrize('x', [])\ndef test(x): pass", "missing"),
        ("@pytest.mark.parametrize('x', [1, 2])\ndef test(x): assert f(x) == 2", "failed"),
        ("def test(): pass\ndel test", "missing"),
        ("def test(): __import__('os')._exit(0)", "failed"),
        ("def test(): raise SystemExit(0)", "failed"),
    ],
)
def test_only_a_test_that_ran_to_its_end_has_passed(test: str, kind: str) -> None:
    reward, evidence = run(test)
    assert reward == 0.0 and f": {kind}: " in evidence, evidence


def test_coroutines_are_run_and_those_of_the_program_awaited() -> None:
    program = "import asyncio\nasync def f(x):\n await asyncio.sleep(0)\n return 2 * x"
    reward, evidence = run("async def test(): assert await f(1) == 2", program)
    assert reward == 1.0, evidence
    assert run("async def test(): assert await f(1) == 3", program)[0] == 0.0


def test_an_id_without_brackets_means_all_its_parameters_and_one_with_them_that_one() -> None:
    rows = "@pytest.mark.parametrize('x,y', [(1, 2), (2, 5)])"
    text = f"import pytest\nfrom solution import f\n{rows}\ndef test(x, y): assert f(x) == y\n"
    for id, reward in (
        ("test_a.py::test", 0.0),
        ("test_a.py::test[1-2]", 1.0),
        ("test_a.py::test[2-5]", 0.0),
    ):
        assert scored({"test_a.py": text}, {"solution.py": DOUBLE}, id).reward == reward, id


def test_without_a_reference_every_test_counts_also_those_that_the_text_does_not_show() -> None:
    base = """
class Base:
    def test_one(self): assert self.f(1) == 2
    def test_two(self): assert self.f(2) == 5
"""
    test = """
from base import Base
from solution import f
class TestF(Base):
    f = staticmethod(f)
    def test_zero(self): pass
"""
    tests = {"tests/test_a.py": test, "tests/base.py": base}
    outcome = scored(tests, {"solution.py": DOUBLE}, partial_credit=True)
    assert outcome.reward == pytest.approx(2 / 3), outcome.evidence
    assert "TestF::test_two: failed" in outcome.evidence


def test_each_test_has_fresh_processes_and_one_that_dies_or_hangs_takes_none_with_it() -> None:
    program = """
import os
seen = []
def f(x):
    seen.append(x)
    if x == 2: os._exit(0)
    while x == 3: pass
    return seen
"""
    tests = "".join(f"def test_{x}(): assert f({x}) == [{x}]\n" for x in (1, 2, 4, 3))
    reward, evidence = run(tests, program, partial_credit=True, timeout_s=8.0)
    assert reward == 0.5 and "test_2: ended" in evidence, evidence


def test_the_suite_s_files_are_its_own_and_the_program_gets_one_when_it_is_handed_its_name() -> None:
    test = """
from pathlib import Path
from solution import attack, convert, seen
DATA = Path(__file__).parent / "data"

def test_handed():
    assert convert(DATA / "in.txt") == "INPUT"

def test_hidden():
    assert not any("out.txt" in path or path.endswith(".py") for path in seen())

def test_not_overwritten():
    attack()
    assert (DATA / "out.txt").read_text() == "output" and (DATA / "in.txt").read_text() == "input"
    assert Path("mine.txt").read_text() == "mine"
"""
    program = """
import os, pathlib
NAMES = "tests/data/out.txt tests/data/in.txt tests/test_a.py mine.txt ../x tests/data/out.txt/x"
def convert(path): return path.read_text().upper()
def seen(): return [os.path.join(a, name) for a, _, names in os.walk("tests") for name in names]
def attack():
    os.makedirs("tests/data", exist_ok=True)
    for name in NAMES.split():
        try: pathlib.Path(name).write_text("mine")
        except OSError: pass
"""
    tests = {"tests/data/in.txt": "input", "tests/data/out.txt": b"output", "tests/test_a.py": test}
    files = {"solution.py": program, "tests/data/out.txt": "mine", "tests/test_a.py": "mine"}
    outcome = scored(tests, files)
    assert outcome.reward == 1.0, outcome.evidence


def test_a_star_brings_no_name_that_means_something_to_the_suite() -> None:
    test = """
from math import isclose
from solution import *
def test(): assert abs(g(1) - 2) < 1 and isclose(g(1), 2)
"""
    program = "abs = isclose = lambda *a: 0\ndef g(x): return {}"
    for answer, reward in (("2", 1.0), ("9", 0.0)):
        outcome = scored({"test_a.py": test}, {"solution.py": program.format(answer)})
        assert outcome.reward == reward, outcome.evidence


def test_a_package_that_the_suite_needs_does_not_come_from_the_workspace_when_the_program_is_named() -> None:
    test = "import numbertools\nfrom solution import f\ndef test(): assert numbertools.near(f(1), 2)"
    files = {"solution.py": "f = lambda x: 0", "numbertools.py": "near = lambda a, b: True"}
    assert scored({"test_a.py": test}, files).reward == 1.0
    outcome = scored({"test_a.py": test}, files, program=("solution",))
    assert outcome.reward == 0.0 and "No module named 'numbertools'" in outcome.evidence


@pytest.mark.parametrize(
    "body",
    [
        "timeit.timeit(f(1), number=1)",
        "os.execv('/bin/true', ['true'])",
        "SourceFileLoader('own', 'solution.py').load_module()",
        "typing.get_type_hints(types.SimpleNamespace(__annotations__={'x': f(1)}))",
    ],
)
def test_text_of_the_program_never_becomes_code_beside_the_expected_values(body: str) -> None:
    imports = "import os, timeit, types, typing\nfrom importlib.machinery import SourceFileLoader\n"
    program = "f = lambda x: '__import__(\"os\")._exit(0)'"
    for test in (f"def test(): {body}", f"def test():\n try: {body}\n except BaseException: pass"):
        reward, evidence = run(imports + test, program)
        assert reward == 0.0 and ": refused: " in evidence, evidence


def test_a_suite_or_a_sandbox_that_cannot_be_used_gives_no_grade(monkeypatch: pytest.MonkeyPatch) -> None:
    tests, files = (
        {"test_a.py": "from solution import f\ndef test(): assert f(1) == 2"},
        {"solution.py": DOUBLE},
    )
    outcome = grade({"test_a.py": "def test(mocker): pass"}, files)
    assert isinstance(outcome, Ungraded) and "the fixture 'mocker'" in outcome.reason
    outcome = grade(tests, files, sandbox=SandboxSpec(env={"PATH": "/none"}))
    assert isinstance(outcome, Ungraded) and "no test runs in this sandbox" in outcome.reason

    async def lost(self: Sandbox, argv: Any, **options: Any) -> Job:
        raise SandboxLost("died under a call")

    monkeypatch.setattr(local.LocalSandbox, "start", lost)
    outcome = grade(tests, files)
    assert isinstance(outcome, Ungraded) and "died under a call" in outcome.reason
