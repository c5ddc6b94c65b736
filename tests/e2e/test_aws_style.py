"""A `train.jsonl` and a `lambda_function.py` written for AWS train a model with a recipe of three lines."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from command import forked
from rewards import BEDROCK, serving, write

DEPARTMENTS = {
    "shipping": ("parcel", "courier", "delivery", "box"),
    "billing": ("invoice", "refund", "charge", "price"),
    "access": ("password", "login", "account", "code"),
}
SAID = ("My {} is late.", "Where is the {}?", "The {} is wrong.", "Help me with a {}.", "I lost my {}.")
BEFORE = ("", "Hello. ", "Please. ", "Hi. ", "Good day. ", "Sorry. ")

PRETRAINING: dict[str, Any] = {
    "data": {"path": "talkative.jsonl", "held_out": 8},
    "reward": "spoken.py:score",
    "threads": 1,
    "model": {
        "tool_format": "none",
        "tiny": {
            "layers": 2,
            "hidden": 128,
            "heads": 4,
            "kv_heads": 2,
            "head_dim": 32,
            "intermediate": 256,
            "vocab": 160,
            "max_context": 96,
        },
    },
    "engine": {"slots": 64},
    "sampling": {"max_tokens": 24},
    "warm_start": {"demonstrations": 324, "steps": 40, "batch_size": 16, "optimizer": {"lr": 3e-3}},
    "grpo": {"steps": 1, "tasks_per_step": 2, "group_size": 2, "reference": False},
}
ONE = """
def lambda_handler(event, context):
    return [{"id": sample["id"], "aggregate_reward_score": 1.0} for sample in event]
"""
RECIPE = """
model: {path: runs/model/warm-start}
data: train.jsonl
reward: lambda_function.py
"""


def tickets() -> Iterator[tuple[str, str]]:
    """(what is asked, the department)."""
    rows = [
        (before + said.format(word), department)
        for department, words in DEPARTMENTS.items()
        for word in words
        for said in SAID
        for before in BEFORE
    ]
    random.Random(0).shuffle(rows)
    return iter(rows)


def write_rows(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def user_files(folder: Path) -> None:
    """As the public documentation writes them: an object as the reference, and a key of one's own."""
    write_rows(
        folder / "train.jsonl",
        (
            {
                "messages": [{"role": "user", "content": asked}],
                "reference_answer": {"answer": department},
                "my_key": f"sample-{number:03d}",
            }
            for number, (asked, department) in enumerate(tickets())
        ),
    )
    write(folder, BEDROCK)
    (folder / "recipe.yaml").write_text(RECIPE)


def pretrain(folder: Path, *, steps: int) -> None:
    """A model that knows the departments and talks too much: three answers of four are whole sentences."""
    write_rows(
        folder / "talkative.jsonl",
        (
            {
                "messages": [{"role": "user", "content": asked}],
                "reference_answer": f"I think it is {department}." if number % 4 else department,
            }
            for number, (asked, department) in enumerate(tickets())
        ),
    )
    write(folder, "def score(completion, reference): return float(completion == reference)", "spoken.py")
    (folder / "model.yaml").write_text(yaml.safe_dump(PRETRAINING))
    done = forked("train", "model.yaml", "--set", f"warm_start.steps={steps}", cwd=folder)
    assert done.code == 0, done.stderr


def mean_rewards(folder: Path) -> list[float]:
    lines = (folder / "runs" / "recipe" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["reward"] for line in lines]


def test_three_lines_train_and_evaluate(tmp_path: Path) -> None:
    user_files(tmp_path)
    pretrain(tmp_path, steps=2)
    small = ("grpo.steps=3", "grpo.tasks_per_step=4", "data.held_out=4", "sampling.max_tokens=8", "threads=1")
    sets = [word for each in small for word in ("--set", each)]
    done = forked("train", "recipe.yaml", "--json", *sets, cwd=tmp_path)
    assert done.code == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["train"]["issued"] == summary["train"]["scored"] == 96
    assert len(mean_rewards(tmp_path)) == 3
    policy = ("--policy", "runs/recipe/policy", *sets)
    with serving(tmp_path / "lambda_function.py") as server:
        words = ("--set", f"reward={server.url}/grade", "--set", "data.held_out=6")
        found = forked("eval", "recipe.yaml", "--json", *policy, *words, cwd=tmp_path)
    assert found.code == 0, found.stderr
    assert json.loads(found.stdout)["outcomes"] == {"scored": 6} and sum(server.calls) == 6
    write(tmp_path, BEDROCK.replace("float(", "0.5 * float("))
    again = forked("train", "recipe.yaml", "--resume", *sets, cwd=tmp_path)
    assert again.code == 2 and "reward.function: lambda_function.py has changed and is not" in again.stderr


RANKS = """
from palaestra.envs import Score

class Ranks:
    def __init__(self, *, bonus=0.0):
        self.bonus = bonus

    async def grade_group(self, task, episodes):
        lengths = [len(episode.answers[-1].content) for episode in episodes]
        parts = {"siblings": len(lengths), "bonus": self.bonus}
        return [Score(reward=n / (1 + max(lengths)), components=parts, turns=(0.25,)) for n in lengths]
"""


def test_a_reward_of_rows_may_judge_siblings_up_to_the_step_and_the_report(tmp_path: Path) -> None:
    user_files(tmp_path)
    pretrain(tmp_path, steps=2)
    write(tmp_path, RANKS, "ranks.py")
    small = ("grpo.steps=2", "grpo.tasks_per_step=4", "grpo.group_size=3", "data.held_out=4", "threads=1")
    reward = "reward={function: ranks.py:Ranks, options: {bonus: 0.5}}"
    sets = [word for each in (*small, "sampling.max_tokens=8", reward) for word in ("--set", each)]
    done = forked("train", "recipe.yaml", "--json", *sets, cwd=tmp_path)
    assert done.code == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["train"]["issued"] == summary["train"]["scored"] == 24
    steps = [json.loads(line) for line in (tmp_path / "runs/recipe/metrics.jsonl").read_text().splitlines()]
    assert [(step["component_siblings"], step["component_bonus"]) for step in steps] == [(3.0, 0.5)] * 2
    assert all(step["accepted"] > 0 for step in steps)
    final = summary["evaluations"]["final"]
    assert final["components"] == {"bonus": 0.5, "siblings": 1.0} and final["turn_rewards"] == [0.25]


def test_an_evaluation_does_not_go_on_with_another_reward_or_other_rows(tmp_path: Path) -> None:
    user_files(tmp_path)
    (tmp_path / "recipe.yaml").write_text("{data: train.jsonl, reward: lambda_function.py}")
    rows = [{"prompt": f"{n}", "reference_answer": "1"} for n in range(20)]
    write_rows(tmp_path / "train.jsonl", iter(rows))
    write(tmp_path, ONE)
    arguments = ("eval", "recipe.yaml", "--policy", "oracle", "--json")
    assert forked(*arguments, cwd=tmp_path).code == 0
    assert forked(*arguments, cwd=tmp_path).code == 0
    write(tmp_path, ONE + "\n# better")
    found = forked(*arguments, cwd=tmp_path)
    assert found.code == 2 and "reward.function: lambda_function.py has changed" in found.stderr
    write(tmp_path, ONE)
    write_rows(tmp_path / "train.jsonl", iter(rows[:-1]))
    found = forked(*arguments, cwd=tmp_path)
    assert found.code == 2 and "data.path: train.jsonl has changed" in found.stderr
    assert forked(*arguments, "--name", "other", cwd=tmp_path).code == 0


BREAKS = """
import os

async def score(completion, reference):
    print("graded", completion)
    if completion == "end":
        os._exit(0)
    while completion == "spin":
        pass
    return float(completion == reference)
"""


def test_a_function_that_ends_its_process_or_hangs_leaves_the_evaluation_its_other_grades(
    tmp_path: Path,
) -> None:
    write(tmp_path, BREAKS, "my_rewards.py")
    rows = ({"prompt": f"say {said}", "reference_answer": said} for said in ("a", "end", "b", "spin"))
    write_rows(tmp_path / "train.jsonl", rows)
    reward = {"function": "my_rewards.py", "timeout_s": 2}
    recipe = {"data": {"path": "train.jsonl", "held_out": 4}, "reward": reward}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    done = forked("eval", "recipe.yaml", "--policy", "oracle", "--json", cwd=tmp_path)
    assert done.code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["outcomes"] == {"scored": 2, "ungraded": 2} and found["reward"]["value"] == 1.0
    why = "\n".join(found["troubles"])
    assert "my_rewards.py took its process down: worker process ended with exit code 0" in why
    assert "my_rewards.py gave no reply within 2 s" in why
    assert {"graded a", "graded end", "graded b"} <= set(done.stderr.splitlines())


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("def lambda_handler(event, context):\n    return []", ["no row for the id", "without a number"]),
        ("import nowhere\ndef lambda_handler(event, context):\n    return []", ["reward:", "nowhere"]),
    ],
)
def test_a_reward_function_that_does_not_work_is_told_and_makes_no_number(
    tmp_path: Path, code: str, words: list[str]
) -> None:
    user_files(tmp_path)
    write(tmp_path, code)
    write_rows(tmp_path / "train.jsonl", ({"prompt": f"{n}", "reference_answer": "1"} for n in range(40)))
    done = forked("eval", "recipe.yaml", "--policy", "oracle", "--set", "model={tiny: {}}", cwd=tmp_path)
    assert done.code in (1, 2)
    said = done.stdout + done.stderr
    assert [word for word in words if word not in said] == []


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (["data=none.jsonl"], ["data", "none.jsonl", "no such file"]),
        (["reward=none.py"], ["reward", "none.py"]),
        (["reward={function: lambda_function.py, where: moon}"], ["reward.where", "moon"]),
        (["tools=none.py"], ["tools", "none.py"]),
        (["data.held_out=1000"], ["data.held_out", "1000"]),
    ],
)
def test_a_recipe_of_rows_that_cannot_run_says_which_field(
    tmp_path: Path, sets: list[str], words: list[str]
) -> None:
    user_files(tmp_path)
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("model:", "# model:"))
    overrides = [word for each in sets for word in ("--set", each)]
    done = forked("check", "recipe", "recipe.yaml", *overrides, cwd=tmp_path)
    assert done.code == 2 and [word for word in words if word not in done.stderr] == []


@pytest.mark.acceptance
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_mean_reward_rises_over_twenty_steps(tmp_path: Path, seed: int) -> None:
    user_files(tmp_path)
    pretrain(tmp_path, steps=40)
    done = forked(
        "train", "recipe.yaml", "--json", "--set", "grpo.steps=20", "--set", f"seed={seed}", cwd=tmp_path
    )
    assert done.code == 0, done.stderr
    rewards = mean_rewards(tmp_path)
    first, last = sum(rewards[:5]) / 5, sum(rewards[-5:]) / 5
    assert len(rewards) == 20 and last > first + 0.1, rewards
    evaluations = json.loads(done.stdout)["evaluations"]
    assert evaluations["final"]["reward"]["value"] > evaluations["baseline"]["reward"]["value"]
    assert evaluations["final"]["outcomes"] == {"scored": 36}
