"""Which tasks of a recipe are trained on, and which are held out."""

from typing import Any

import pytest

from palaestra.trainer.arena import Arena, load_arena
from palaestra.trainer.recipe import Recipe

ADAPTERS = "palaestra.envs.adapters"
URL = {"url": "http://127.0.0.1:1"}


def arena(env: dict[str, Any], **grpo: Any) -> Arena:
    return load_arena(Recipe.model_validate({"name": "x", "env": env, "grpo": grpo}))


@pytest.mark.parametrize(
    ("env", "options"),
    [
        ("openenv:OpenEnv", URL),
        ("openenv:OpenEnv", {**URL, "instructions": "Call act."}),
        ("textarena:TextArenaEnv", {"game": "Wordle-v0"}),
    ],
)
def test_games_whose_opening_nobody_knows_before_are_told_apart(env: str, options: dict[str, str]) -> None:
    found = arena({"id": f"{ADAPTERS}.{env}", "tasks": {**options, "size": 30}, "held_out": 10})
    assert (len(found.train), len(found.held_out)) == (20, 10)
    seeds = [task.private["seed"] for task in (*found.train, *found.held_out)]
    assert len(set(seeds)) == 30


def test_a_tenth_is_held_out_where_nobody_says_how_many() -> None:
    found = arena({"id": "arithmetic", "tasks": {"size": 200}})
    asked = {task.prompt_text for task in found.held_out}
    assert len(asked) == len(found.held_out) == (len({t.prompt_text for t in found.train}) + len(asked)) // 10
    assert not asked & {task.prompt_text for task in found.train}


def test_tasks_keep_their_order_where_they_are_not_shuffled() -> None:
    env = {"id": "cli_envs:Odd", "tasks": {"size": 30}, "held_out": 10}
    shuffled, kept = arena(env), arena(env, shuffle_tasks=False)
    assert [task.id for task in kept.held_out] == [task.id for task in shuffled.held_out]
    numbers = [int(task.id) for task in kept.train]
    assert numbers == sorted(numbers) and len(numbers) == 20
    assert {task.id for task in shuffled.train} == set(map(str, numbers))
