"""`Suite` against programs that do anything but pass its tests."""

import secrets
from pathlib import Path

import pytest
from embedded_box import need, on_each_tier
from suites import exploits_in, scored
from support import require, run_async

from palaestra.sandboxes import SandboxSpec, open_sandbox

EXPLOITS = exploits_in(Path(__file__).with_name("suite_exploits.txt"))


def secret_suite() -> tuple[dict[str, str], dict[str, str]]:
    """A suite for values that a program can only find or be given, and a workspace that was given them."""
    number = secrets.randbelow(1 << 60) + (1 << 62)  # 19 digits, which the searches look for
    word = secrets.token_hex(8)
    suite = f"""
import unittest
from helpers import near
from solution import f

def test_equal():
    assert f(1) == {number}
    assert f(2) == [{number}, "x"]

def test_near():
    assert near(f(3), {number}.5)

def test_contains():
    assert "{word}" in f(4)

class TestText:
    def test_starts(self):
        assert f(5).startswith("{word}")

class SetTest(unittest.TestCase):
    def test_set(self):
        self.assertSetEqual(f(6), {{{number}, 2}})
"""
    helpers = "def near(a, b): return abs(a - b) < 1e-6\n"
    program = f"""
def f(x):
    return [None, {number}, [{number}, "x"], {number}.5, "a {word}", "{word} a", {{2, {number}}}][x]
"""
    return {"tests/test_secret.py": suite, "tests/helpers.py": helpers}, {"solution.py": program}


@on_each_tier
@pytest.mark.parametrize("name", EXPLOITS)
def test_an_exploit_earns_nothing(name: str, tier: str) -> None:
    need(tier)
    tests, _ = secret_suite()
    spec = SandboxSpec(memory_mb=256, backend=tier)
    outcome = scored(tests, EXPLOITS[name], partial_credit=True, sandbox=spec, timeout_s=6.0)
    assert outcome.reward == 0.0, outcome.evidence
    assert "own process" not in outcome.evidence, "it failed for a reason of ours"


@on_each_tier
def test_who_knows_the_answers_passes_the_same_suite(tier: str) -> None:
    need(tier)
    tests, files = secret_suite()
    outcome = scored(tests, files, sandbox=SandboxSpec(backend=tier))
    assert outcome.reward == 1.0, outcome.evidence
    assert outcome.evidence == "5 of 5 tests passed"


def test_what_an_honest_workspace_has_beside_the_program_changes_nothing() -> None:
    """Files that steer a runner are not evidence of an attack: who solves the task may have them."""
    tests, files = secret_suite()
    planted = [name for name in EXPLOITS if name.startswith(("planted", "seeded"))]
    assert len(planted) >= 8
    for name in planted:
        outcome = scored(tests, {**EXPLOITS[name], **files})
        assert outcome.reward == 1.0, (name, outcome.evidence)


SHARED_PROCESS = """
import sys
sys.path[:0] = ["tests", "."]
import test_secret as suite
suite.test_equal(); suite.test_near(); suite.test_contains()
suite.TestText().test_starts(); suite.SetTest("test_set").test_set()
"""


def test_there_are_sixty_exploits_and_they_fool_a_runner_that_shares_the_program_s_process() -> None:
    """Else the table would show nothing."""

    async def fooled(name: str) -> bool:
        async with open_sandbox(SandboxSpec(memory_mb=256)) as box:
            for path, text in {**EXPLOITS[name], **secret_suite()[0]}.items():
                await box.write(path, text.encode())
            return (await box.run(["python3", "-c", SHARED_PROCESS], timeout_s=5.0)).ok

    assert len(EXPLOITS) >= 60
    names = ["exit_calmly", "exit_at_import", "exit_hard", "exec_true", "words_of_pytest", "planted_runner"]
    assert [name for name in names if not run_async(fooled(name))] == []


FORGERS = (
    *("answers_to_all_questions", "code_by_name", "flood_of_frames", "patched_codec", "patched_json"),
    *("verdict_to_every_descriptor", "words_of_pytest"),
)


@pytest.mark.parametrize("name", FORGERS)
def test_evidence_of_tampering_is_scored_the_floor(name: str) -> None:
    need("namespaces")
    spec = SandboxSpec(backend="namespaces")
    outcome = scored(secret_suite()[0], EXPLOITS[name], floor=-2.0, sandbox=spec, timeout_s=6.0)
    assert outcome.reward == -2.0 and outcome.evidence.startswith("tampered: tests/test_secret.py::")


def test_a_wrong_program_a_crash_and_a_child_that_comes_back_are_no_tampering() -> None:
    twice = EXPLOITS["two_answers"]["solution.py"]
    for program in ("f = lambda x: 0", "import os\nf = lambda x: os._exit(1)", twice):
        outcome = scored(secret_suite()[0], {"solution.py": program}, floor=-2.0)
        assert outcome.reward == 0.0, outcome.evidence


@pytest.mark.docker
def test_exploits_earn_nothing_in_containers_either() -> None:
    require("docker")
    tests, files = secret_suite()
    spec = SandboxSpec(memory_mb=256, backend="docker")
    assert scored(tests, files, sandbox=spec).reward == 1.0
    for name in ("lying_object", "exit_hard", "memory_of_every_process", "patched_codec", "planted_tests"):
        outcome = scored(tests, EXPLOITS[name], sandbox=spec, partial_credit=True, timeout_s=6.0)
        assert outcome.reward == 0.0, (name, outcome.evidence)


IDIOMS = """
assert f("int") == 7
assert 7 == f("int")
assert not f("int") != 7
assert f("int") in (7, 8)
assert f("int") in {7: 0}
assert 6 < f("int") < 8
assert f("int") >= 7
assert abs(f("num") - 41.5) < 1e-6
assert abs(41.5 - f("num")) < 1e-6
assert -1e-6 < f("num") - 41.5 < 1e-6
assert math.isclose(f("num"), 41.5)
assert f("num") == pytest.approx(41.5)
assert pytest.approx(41.5) == f("num")
assert round(f("num"), 1) == 41.5
assert f("int") % 4 == 3
assert f("int") - 7 == 0
assert not f("int") - 7
assert f("int") ^ 7 == 0
assert divmod(f("int"), 7) == (1, 0)
assert int(f("int")) == 7
assert str(f("text")) == "alpha beta"
assert "beta" in f("text")
assert f("text").startswith("alpha")
assert f("text").endswith("beta")
assert f("text").replace("alpha ", "") == "beta"
assert f("text").strip("alph") == " bet"
assert f("text").split() == ["alpha", "beta"]
assert f("text").find("beta") == 6
assert f("text").count("alpha") == 1
assert f("text").encode() == b"alpha beta"
assert f("text")[0] == "a"
assert re.search("beta", f("text"))
assert len(f("list")) == 3
assert sorted(f("list")) == [1, 2, 3]
assert f("list").index(1) == 1
assert sum(f("list")) == 6
assert max(f("list")) == 3
assert all(x in f("list") for x in (1, 2, 3))
assert set(f("list")) == {1, 2, 3}
assert f("list") + [4] == [3, 1, 2, 4]
assert f("set").issubset({1, 2}) and f("set").issuperset({1, 2})
assert f("set") - {1, 2} == set()
assert not {1, 2} - f("set")
assert not {1, 2} ^ f("set")
assert f("set").difference({1}) == {2}
assert f("dict")["a"] == 1
assert f("dict").get("a") == 1
assert f("dict").items() == {"a": 1}.items()
assert "a" in f("dict")
assert isinstance(f("int"), int)
assert type(f("int")) is int
assert hash(f("int")) == hash(7)
assert f("int").__eq__(7) is True
assert f("text").__contains__("alpha")
assert f("int").__sub__(7) == 0
assert operator.eq(f("int"), 7)
assert operator.contains(f("text"), "alpha")
assert [f("int")] == [7]
assert {"k": f("int")} == {"k": 7}
a, b, c = f("list"); assert (a, b, c) == (3, 1, 2)
assert list(zip(f("list"), [3, 1, 2])) == [(3, 3), (1, 1), (2, 2)]
assert repr(f("int")) == "7" and f"{f('int')}" == "7"
assert json.loads(json.dumps(f("dict"))) == {"a": 1}
assert dict(f("dict"), b=2) == {"a": 1, "b": 2}
assert f("int") is not None and f("int") == 7
assert f("int").real == 7
case.assertEqual(f("int"), 7)
case.assertAlmostEqual(f("num"), 41.5)
case.assertIn("alpha", f("text"))
case.assertTrue(f("int") == 7)
case.assertSetEqual(f("set"), {1, 2})
case.assertDictEqual(f("dict"), {"a": 1})
case.assertCountEqual(f("list"), [1, 2, 3])
case.assertListEqual(f("list"), [3, 1, 2])
case.assertSequenceEqual(f("list"), [3, 1, 2])
case.assertGreater(f("int"), 6)
case.assertRegex(f("text"), "alpha")
case.assertIsInstance(f("text"), str)
case.assertNotEqual(f("int"), 8); case.assertEqual(f("int"), 7)
""".strip().split("\n")
IDIOM_SUITE = (
    "import json, math, operator, re, unittest, pytest\n"
    "from solution import Box, f\ncase = unittest.TestCase()\n"
    + "".join(f"def idiom_{at}():\n    {line}\n" for at, line in enumerate(IDIOMS))
    + f"""
LINES = {IDIOMS!r}

def passing():
    for at, line in enumerate(LINES):
        try:
            globals()["idiom_%d" % at]()
        except Exception:
            continue
        yield line

def test_none():
    believed = list(passing())
    assert not believed, believed
def test_all(): assert set(LINES) - set(passing()) == set()
def test_own(): assert "x" in Box() and Box() - 1 == 0 and Box().startswith("x")
"""
)
HONEST = """
VALUES = {"int": 7, "num": 41.5, "text": "alpha beta", "list": [3, 1, 2], "set": {1, 2}, "dict": {"a": 1}}
f = VALUES.get
class Box: pass
"""


def test_the_idioms_hold_for_who_is_honest() -> None:
    need("namespaces")
    outcome = scored({"test_idioms.py": IDIOM_SUITE}, {"solution.py": HONEST}, "test_idioms.py::test_all")
    assert outcome.reward == 1.0, outcome.evidence


@pytest.mark.parametrize(
    "lie", ["Yes()", "Yes", "Box()", "Box", "[Yes(), Yes()]", "{'b': Box()}", "Yes().method"]
)
def test_no_idiom_believes_an_object_that_equals_and_holds_everything(lie: str) -> None:
    need("namespaces")
    liar = EXPLOITS["lying_object"]["solution.py"].split("def f(")[0]
    box = "class Box(Yes):\n    __init__ = lambda self, *a: None"
    program = f"{liar}    method = lambda self, *a: True\n{box}\nf = lambda k: {lie}\n"
    outcome = scored({"test_idioms.py": IDIOM_SUITE}, {"solution.py": program}, "test_idioms.py::test_none")
    assert outcome.reward == 1.0, outcome.evidence
    # The suite's own questions to an object of a class that it named are the program's to answer.
    outcome = scored({"test_idioms.py": IDIOM_SUITE}, {"solution.py": program}, "test_idioms.py::test_own")
    assert outcome.reward == 1.0, outcome.evidence
