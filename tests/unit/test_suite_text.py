"""What a suite's text says of it, and what `Suite` refuses before anything runs."""

import ast
from typing import Any

import pytest

from palaestra.envs import Task
from palaestra.envs.graders import Suite
from palaestra.envs.graders.suite_text import INSIDE, SuiteText, pytest_names, read_suite


def suite(*texts: str) -> SuiteText:
    return read_suite(Task(id="t"), {f"tests/test_{at}.py": text for at, text in enumerate(texts)})


def test_the_text_shows_functions_methods_and_what_classes_inherit() -> None:
    text = """
def test_a(): pass
async def test_b(): pass
def helper(): pass
class TestC:
    def test_d(self): pass
    def other(self): pass
class TestE(TestC):
    def test_f(self): pass
class Mixed(unittest.TestCase):
    def test_g(self): pass
class More(Mixed): pass
class Holder:
    def test_h(self): pass
"""
    found = [id.partition("::")[2] for id in suite(text).ids]
    named = ["test_a", "test_b", "TestC::test_d", "TestE::test_d", "TestE::test_f"]
    assert found == [*named, "Mixed::test_g", "More::test_g"]
    assert read_suite(Task(id="t"), {"helpers.py": text, "a_test.py": "def test(): 0"}).ids == (
        "a_test.py::test",
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def test(): eval('1')", "eval()"),
        ("def test(): exec(open('a').read())", "exec()"),
        ("import pickle", "import pickle"),
        ("from hypothesis import given", "parametrize"),
        ("import pytest\ndef test(): pytest.main()", "pytest.main"),
        ("from pytest import Item", "pytest.Item"),
        ("def pytest_configure(config): pass", "pytest_configure"),
        ("def test(mocker): pass", "the fixture 'mocker'"),
        ("def test(:", "is not Python"),
    ],
)
def test_what_a_suite_cannot_have_is_refused_with_file_and_line(text: str, words: str) -> None:
    with pytest.raises(ValueError) as error:
        suite("", text)
    assert "'tests/test_1.py'" in str(error.value) and words in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        "import pytest\n@pytest.fixture\ndef a(): pass\ndef test(a, tmp_path, capsys, request): pass",
        "import pytest\n@pytest.fixture(name='b')\ndef a(): pass\ndef test(b): pass",
        "import pytest\n@pytest.mark.parametrize('a, b', [])\ndef test(a, b, c=1): pass",
        "import pytest\n@pytest.mark.parametrize(['a', 'b'], [])\ndef test(a, b): pass",
        "from unittest.mock import patch\n@patch('a.b')\ndef test(mock): pass",
        "import ast\ndef test(): ast.literal_eval('1')",
    ],
)
def test_what_it_can_have_is_not(text: str) -> None:
    assert suite(text).ids


@pytest.mark.parametrize(
    "files",
    [
        None,
        {},
        "def test(): pass",
        {"/a.py": ""},
        {"../a.py": ""},
        {"a//b.py": ""},
        {"a.py": 3},
        {3: ""},
    ],
)
def test_files_that_are_no_suite_are_refused(files: Any) -> None:
    with pytest.raises(ValueError, match="suite"):
        read_suite(Task(id="t", private={"tests": files}), None)


def test_a_reference_names_tests_of_the_suite_each_once() -> None:
    text = suite("def test_a(): pass\ndef test_b(): pass")
    assert text.required(None) == ("tests/test_0.py::test_a", "tests/test_0.py::test_b")
    assert text.required("tests/test_0.py::test_a") == ("tests/test_0.py::test_a",)
    assert text.required(["tests/test_0.py::TestX::test_y[1-2]"]) == ("tests/test_0.py::TestX::test_y[1-2]",)
    for wrong in ([], ["test_a"], ["tests/test_9.py::test_a"], [3], ["tests/test_0.py::test_a"] * 2):
        with pytest.raises(ValueError, match=r"Task\.reference"):
            text.required(wrong)
    with pytest.raises(ValueError, match=r"Task\.reference"):
        suite("x = 1").required(None)


def test_only_a_suite_that_looks_at_files_has_the_sandboxes_tell_each_other_theirs() -> None:
    assert not suite("import math, io\ndef test(): assert math.pi").touches_files
    for text in (
        "def test(tmp_path): 0",
        "import pathlib",
        "def test(): open('a')",
        "import subprocess as s",
    ):
        assert suite(text).touches_files
    assert read_suite(Task(id="t"), {"a.txt": "", "test_a.py": ""}).touches_files


def test_the_episode_s_own_sandbox_is_out_of_a_grader_s_reach() -> None:
    with pytest.raises(ValueError, match="allow_shared"):
        Suite(allow_shared=True)


def test_what_runs_inside_keeps_to_the_syntax_of_python_3_8() -> None:
    files = sorted(INSIDE.glob("*.py"))
    assert len(files) > 10
    for path in files:
        ast.parse(path.read_text(), str(path), feature_version=(3, 8))


def test_the_stand_in_for_pytest_has_what_it_lists() -> None:
    from palaestra.envs.graders._suite import shim

    assert [name for name in pytest_names() if not hasattr(shim, name)] == []
