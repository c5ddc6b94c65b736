"""Rewards by what a recipe calls them, and functions whose arguments are filled by name."""

import sys
from pathlib import Path
from typing import Any

import pytest
from rewards import SAGEMAKER, episode, write
from support import run_async

from palaestra.envs import Score, Task, Ungraded, UserMessage
from palaestra.envs.graders import (
    Gsm8k,
    LambdaReward,
    NamedReward,
    Numeric,
    UnitTests,
    UnknownReward,
    grade_episode,
    load_reward,
)
from palaestra.sandboxes import SandboxSpec

TASK = Task(
    id="7",
    messages=(UserMessage("2 + 2 = ?"),),
    reference="4",
    metadata={"data_source": "sums", "extra_info": {"level": 2}},
)


def score(folder: Path, code: str, said: str = "4", name: str = "score") -> Score:
    path = write(folder, code, "my_rewards.py")
    return run_async(load_reward(f"{path}:{name}").grade(TASK, episode(said), None))


@pytest.mark.parametrize(
    "code",
    [
        "def score(task, episode): return float(episode.answers[-1].content == task.reference)",
        "async def score(task, episode): return float(episode.answers[-1].content == task.reference)",
        "def score(completion, reference): return completion == reference",
        "def score(completion, *, ground_truth, **rest): return completion == ground_truth",
        "def score(messages, answer): return messages[-1]['content'] == answer",
        "def score(data_source, solution_str, ground_truth, extra_info=None):\n"
        "    assert data_source == 'sums' and extra_info == {'level': 2}\n"
        "    return {'score': float(solution_str == ground_truth), 'level': 2, 'note': 'x'}",
        "def score(prompts, completions, reference_answer, data_source, **rest):\n"
        "    assert prompts[0][0]['content'] == '2 + 2 = ?' and data_source == ['sums'] and rest\n"
        "    return [float(c[0]['content'] == a) for c, a in zip(completions, reference_answer)]",
        "from palaestra.envs import Score\n"
        "def score(prompt, completion, level=0): return Score(reward=float(completion == '4'))",
        "from palaestra.envs.graders import Exact\nscore = Exact()",
        "from palaestra.envs.graders import Exact as score",
    ],
)
def test_a_function_says_by_its_arguments_what_it_wants_to_know(tmp_path: Path, code: str) -> None:
    assert (score(tmp_path, code).reward, score(tmp_path, code, "5").reward) == (1.0, 0.0)


def test_other_numbers_of_a_dict_become_components(tmp_path: Path) -> None:
    found = score(tmp_path, "def score(completion): return {'score': 0.5, 'brief': True, 'why': 'short'}")
    assert found == Score(reward=0.5, components={"brief": 1.0})


@pytest.mark.parametrize(
    "code",
    [
        "def score(completion): return None",
        "def score(completion): return float('nan')",
        "def score(completion): return 'good'",
        "def score(completions, **rest): return 1.0",
        "def score(completions, **rest): return [None]",
        "def score(completion): raise SystemExit",
    ],
)
def test_what_is_no_number_is_ungraded(tmp_path: Path, code: str) -> None:
    reward = load_reward(f"{write(tmp_path, code, 'my_rewards.py')}:score")
    assert isinstance(run_async(grade_episode(reward, TASK, episode("4"))), Ungraded)


def test_an_argument_without_a_value_is_found_before_a_run(tmp_path: Path) -> None:
    reward = load_reward(f"{write(tmp_path, 'def score(completion, gold): return 1', 'r.py')}:score")
    assert isinstance(reward, NamedReward)
    with pytest.raises(ValueError, match="'gold'; known: answer, completion, data_source"):
        reward.check(TASK)
    reward.check(Task(id="8", metadata={"gold": 1}))


def test_a_handler_is_known_by_its_name_and_the_only_function_needs_none(tmp_path: Path) -> None:
    handler = write(tmp_path, SAGEMAKER)
    assert isinstance(load_reward(str(handler)), LambdaReward)
    assert isinstance(load_reward(f"{handler}:lambda_handler"), LambdaReward)
    imported = write(tmp_path, "from lambda_function import lambda_handler", "other.py")
    assert isinstance(load_reward(str(imported)), LambdaReward)
    only = write(tmp_path, "def _help(): ...\ndef score(completion): return 1.0", "only.py")
    assert run_async(load_reward(str(only)).grade(TASK, episode("4"), None)) == Score(reward=1.0)


def test_a_preset_is_named_alone_and_takes_its_fields() -> None:
    assert load_reward("gsm8k", method="strict") == Gsm8k(method="strict")
    with pytest.raises(UnknownReward, match=r"preset 'gsm8k': batch: 4: no such field; known: method"):
        load_reward("gsm8k", batch=4)


@pytest.mark.parametrize(
    ("source", "options", "why"),
    [
        ("finqa", {"rel_tol": "high"}, r"rel_tol: 'high': .*valid number"),
        ("finqa", {"reltol": 0.1}, r"reltol: 0.1: no such field; did you mean 'rel_tol'\?"),
        ("gsm8k", {"method": "strikt"}, r"method: 'strikt': .*'flexible' or 'strict'"),
        ("prime_math", {"method": "strict"}, "no such field; known: none"),
        (
            "code",
            {"sandbox": {"memry_mb": 64}},
            "sandbox.memry_mb: 64: .*did you mean 'memory_mb'",
        ),
        ("code", {"sandbox": {"memory_mb": -1}}, r"SandboxSpec.memory_mb must be over 0 and finite, got -1"),
        ("palaestra.envs.graders:Numeric", {"rel_tol": []}, r"rel_tol: \[\]: "),
        (
            "palaestra.envs.graders:final_answer",
            {"prefix": "x"},
            "neither .* nor a class, and takes no prefix",
        ),
        ("lambda_function.py", {"wher": "sandbox"}, "wher: 'sandbox': no such field; did you mean 'where'"),
        ("lambda_function.py", {"sandbox": SandboxSpec()}, "only with where: sandbox; set that too"),
    ],
)
def test_options_that_do_not_fit_name_the_field_the_value_and_the_cure(
    source: str, options: dict[str, Any], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, SAGEMAKER)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnknownReward, match=why):
        load_reward(source, **options)


def test_what_judges_siblings_is_no_reward_of_one_episode(tmp_path: Path) -> None:
    path = write(tmp_path, "class Ranks:\n    async def grade_group(self, task, episodes): ...", "ranks.py")
    with pytest.raises(UnknownReward, match="judges the siblings of a group together"):
        load_reward(f"{path}:Ranks")


def test_a_class_is_made_from_its_fields(tmp_path: Path) -> None:
    assert load_reward("palaestra.envs.graders:Numeric", prefix="Answer:") == Numeric(prefix="Answer:")
    code = UnitTests(partial_credit=True, sandbox=SandboxSpec(memory_mb=64, network=("pypi.org",)))
    found = load_reward("code", partial_credit=True, sandbox={"memory_mb": 64, "network": ["pypi.org"]})
    assert found == code
    plain = """
from palaestra.envs import Score
class Fixed:
    def __init__(self, reward, *, bonus=0.0):
        self.reward = reward + bonus
    async def grade(self, task, episode, workspace):
        return Score(reward=self.reward)
"""
    path = write(tmp_path, plain, "fixed.py")
    reward = load_reward(f"{path}:Fixed", reward=0.25, bonus=0.5)
    assert run_async(reward.grade(TASK, episode("4"), None)) == Score(reward=0.75)
    for options, why in (({}, "missing 1 required"), ({"reward": 0, "bonas": 1}, "did you mean 'bonus'")):
        with pytest.raises(UnknownReward, match=why):
            load_reward(f"{path}:Fixed", **options)


def test_a_module_that_can_be_imported_holds_graders_too() -> None:
    assert isinstance(load_reward("palaestra.envs.graders:Numeric"), Numeric)


def test_the_file_of_a_handler_is_not_run_in_this_process(tmp_path: Path) -> None:
    load_reward(str(write(tmp_path, "import sys\nsys.stained = True\n" + SAGEMAKER)))
    assert not hasattr(sys, "stained")


@pytest.mark.parametrize(
    ("code", "source", "word"),
    [
        ("", "none.py", "there is no file none.py"),
        ("", "none.py:score", "there is no file none.py"),
        ("def a(x): ...\ndef b(x): ...", "{}", "name a function as in .*it has: a, b"),
        ("def score(:", "{}", "is no Python"),
        ("import nowhere", "{}:score", "ModuleNotFoundError.*nowhere.*line 1"),
        ("1 / 0", "{}:score", "ZeroDivisionError.*line 1"),
        ("import sys\nsys.exit(1)", "{}:score", "CodeExited"),
        ("x = 1", "{}:score", "has no 'score'"),
        ("score = 1", "{}:score", "neither a function nor a grader"),
        ("", "no_such_module:score", "no_such_module"),
        ("", "palaestra.envs.graders", "names no function"),
        ("from palaestra.envs.graders import Rubric as score", "{}:score", "at least one part"),
    ],
)
def test_what_is_no_reward_is_explained(tmp_path: Path, code: str, source: str, word: str) -> None:
    path = write(tmp_path, code, "broken.py")
    with pytest.raises(UnknownReward, match=word):
        load_reward(source.format(path))


def test_options_of_calls_are_refused_where_there_are_none(tmp_path: Path) -> None:
    path = write(tmp_path, "def score(completion): return 1.0", "r.py")
    with pytest.raises(UnknownReward, match="takes no batch"):
        load_reward(f"{path}:score", batch=4)
    with pytest.raises(UnknownReward, match="concurrency is 0; it must be over 0"):
        load_reward(f"{path}:score", concurrency=0)
