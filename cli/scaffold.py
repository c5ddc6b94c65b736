"""The files of a new environment's package. `$name` and the like are filled in; all else stands as it is."""

from collections.abc import Mapping
from string import Template

PYPROJECT = """\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "$name"
version = "0.1.0"
description = "An environment for Palaestra."
readme = "README.md"
requires-python = ">=3.11"
dependencies = ["palaestra>=$version"]

# What recipes and commands call it.
[project.entry-points."palaestra.envs"]
$name = "$package.env:$cls"

[dependency-groups]
dev = ["pytest"]

[tool.setuptools]
packages = ["$package"]

[tool.pytest.ini_options]
testpaths = ["tests"]
"""

README = """\
# $name

An environment for Palaestra: how often does a letter stand in a word?

    pip install -e .
    palaestra check env $name
    pytest
    palaestra play recipe.yaml --policy oracle
    palaestra train recipe.yaml
"""

INIT = '''\
"""An environment for Palaestra."""

from .env import $cls

__all__ = ["$cls"]
'''

ENV = '''\
"""How often does a letter stand in a word? Replace the tasks, the tool and the grader by your own."""

import random

from palaestra.envs import Policy, ScriptedPolicy, Task, TaskSet, ToolEnv, UserMessage, call_tool, tool
from palaestra.envs.graders import Numeric

LETTERS = "abc"


class $cls(ToolEnv[Task]):
    """The policy may call `spell`, then says "Answer: 2"."""

    grader = Numeric(prefix="Answer:")

    @tool
    async def spell(self, word: str) -> str:
        """Spell a word, letter by letter.

        Args:
            word: any word
        """
        return " ".join(word)

    @classmethod
    def tasks(cls, *, size: int = 200, seed: int = 0) -> TaskSet:
        """`size` words that `seed` makes up, each with a letter to count; a recipe's `env.tasks`."""
        draw = random.Random(seed)
        words = ["".join(draw.choices(LETTERS, k=6)) for _ in range(size)]
        asked = [draw.choice(LETTERS) for _ in words]
        return TaskSet(
            Task(
                id=f"{seed}-{number}",
                messages=(UserMessage(f"How many {letter} are in {word}? End with: Answer: <number>"),),
                reference=word.count(letter),
                private={"word": word},
            )
            for number, (word, letter) in enumerate(zip(words, asked, strict=True))
        )

    @classmethod
    def oracle(cls, task: Task) -> Policy:
        """Earns the maximum; it may look at everything. `palaestra check env` and warm starts play it."""
        return ScriptedPolicy([call_tool("spell", word=task.private["word"]), f"Answer: {task.reference}"])
'''

TEST = '''\
"""The environment is fit for training, and its grader means what it says."""

import asyncio
from pathlib import Path

import pytest
from palaestra.envs import Scored, ScriptedPolicy, play
from palaestra.envs.check import check_env
from palaestra.envs.graders import grade_episode
from palaestra.trainer.recipe_file import load_recipe

from $package import $cls


def test_oracle_floor_determinism_isolation_teardown_and_leaks() -> None:
    report = asyncio.run(check_env($cls))
    assert report.passed, report


@pytest.mark.parametrize(("wrong", "reward"), [(0, 1.0), (1, 0.0)])
def test_only_the_right_number_counts(wrong: int, reward: float) -> None:
    async def outcome_of(answer: str) -> object:
        episode = await play($cls(), ScriptedPolicy([answer]), task, seed=0)
        return await grade_episode($cls.grader, task, episode)

    task = $cls.tasks()[0]
    outcome = asyncio.run(outcome_of(f"Answer: {task.reference + wrong}"))
    assert isinstance(outcome, Scored) and outcome.reward == reward


def test_the_recipe_can_be_read() -> None:
    recipe = load_recipe(Path(__file__).parents[1] / "recipe.yaml")
    assert recipe.env.id == "$name"
'''

RECIPE = """\
# palaestra train recipe.yaml
name: $name
env:
  id: $name
  tasks: {size: 600, seed: 0}
  held_out: 100
model:
  tool_format: react
  describe_tools: false
  tiny: {layers: 2, hidden: 128, heads: 8, kv_heads: 4, head_dim: 32, intermediate: 256, vocab: 192}
  # A model of your own instead: path: models/my-model
engine: {kind: local, slots: 64}
sampling: {temperature: 1.0, max_tokens: 32}
warm_start: {demonstrations: 500, steps: 120, target_loss: 0.15}
grpo: {steps: 40, tasks_per_step: 16, group_size: 8}
"""

FILES: Mapping[str, str] = {
    "README.md": README,
    "pyproject.toml": PYPROJECT,
    "recipe.yaml": RECIPE,
    "$package/__init__.py": INIT,
    "$package/env.py": ENV,
    "tests/test_$package.py": TEST,
}


def env_package(name: str, version: str) -> dict[str, str]:
    """Text by relative path, for an environment of that name and a Palaestra of at least that version.

    >>> sorted(env_package("word-count", "0.1.0"))[3:5]
    ['tests/test_word_count.py', 'word_count/__init__.py']
    """
    package = name.replace("-", "_")
    cls = "".join(word.capitalize() for word in name.split("-"))
    words = {"name": name, "package": package, "cls": cls, "version": version}
    return {
        Template(path).substitute(words): Template(text).substitute(words) for path, text in FILES.items()
    }
