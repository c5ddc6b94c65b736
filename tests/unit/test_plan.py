"""What `--dry-run` says of a run: held against the renderer, the packing and the run's own arithmetic."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from trainer_builders import make_row

from palaestra.agents.renderer import Renderer
from palaestra.envs import Budget, Env, SystemMessage, Task, TaskSet, ToolEnv, UserMessage, tool
from palaestra.trainer.arena import Arena
from palaestra.trainer.batches.packing import micro_batches
from palaestra.trainer.plan import plan
from palaestra.trainer.prompts import NUM_PROMPTS, check_prompts, probe_prompts
from palaestra.trainer.recipe import Recipe, TinyModel
from palaestra.trainer.recipe_file import RecipeError
from palaestra.trainer.weights.tiny import make_tiny_model

BASE: dict[str, Any] = {
    "name": "x",
    "env": {"id": "arithmetic", "budget": {"max_turns": 3}},
    "sampling": {"max_tokens": 20},
    "grpo": {"steps": 6, "tasks_per_step": 5, "group_size": 4, "updates_per_step": 2},
}
TASKS = TaskSet([Task(id=f"{n}", messages=(UserMessage("1" * (n + 1)),)) for n in range(40)])
HELD_OUT = TaskSet([Task(id=f"held {n}", messages=(UserMessage("2"),)) for n in range(7)])


def planned(kind: type[Env[Any]] = Env, /, **changes: Any) -> dict[str, Any]:
    return plan(Recipe.model_validate(BASE | changes), Arena(kind, TASKS, HELD_OUT))


class Endless(Env[Task]):
    budget = Budget()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    make_tiny_model(TinyModel(max_context=999), path, ["1 + 2 = 3"])
    return path


def test_tokens_and_updates_are_counted_for_an_episode_a_step_and_the_run() -> None:
    found = planned()
    assert (found["steps"], found["episodes"], found["optimizer_updates"]) == (6, 6 * 20, 12)
    assert found["max_sampled_tokens_per_episode"] == 3 * 20
    assert found["max_sampled_tokens_per_step"] == 20 * 3 * 20
    assert found["max_sampled_tokens"] == 6 * 20 * 3 * 20
    fewer = planned(grpo={**BASE["grpo"], "epochs": 0.5})  # 20 tasks, 4 steps of 5
    assert (fewer["steps"], fewer["epochs"], fewer["optimizer_updates"]) == (4, 0.5, 8)
    assert fewer["max_sampled_tokens"] == 4 * 20 * 3 * 20
    limited = planned(env={"id": "arithmetic", "budget": {"max_turns": 3, "max_tokens": 50}})
    assert limited["max_sampled_tokens_per_step"] == 20 * 50
    open_ended = planned(Endless, env={"id": "arithmetic"})
    assert open_ended["max_sampled_tokens"] is None


@pytest.mark.parametrize(
    ("changes", "number"),
    [
        ({}, 2),
        ({"warm_start": {}}, 3),
        ({"warm_start": {}, "evaluation": {"at_start": False}}, 1),
        ({"evaluation": {"every": 2}}, 4),  # before, after steps 2 and 4, final
        ({"evaluation": {"every": 4, "samples": 3}}, 3),
    ],
)
def test_evaluations_are_counted_as_they_are_made(changes: dict[str, Any], number: int) -> None:
    found = planned(**changes)
    samples = changes.get("evaluation", {}).get("samples", 1)
    assert (found["evaluations"], found["evaluated_episodes"]) == (number, number * samples * 7)


class Adder(ToolEnv[Task]):
    @tool
    async def add(self, a: float, b: float) -> float:
        """Add two numbers."""
        return a + b


@pytest.mark.parametrize("env", [Env, Adder])
def test_prompts_are_as_long_as_they_are_rendered(folder: Path, env: type[Env[Any]]) -> None:
    renderer = Renderer.from_pretrained(folder)
    tools = tuple(each.spec for each in Adder.offered.values()) if env is Adder else ()
    everywhere = [TASKS[at * len(TASKS) // NUM_PROMPTS] for at in range(NUM_PROMPTS)]
    lengths = [len(renderer.opening(task.messages, tools)) for task in everywhere]
    found = planned(env, model={"path": folder})
    assert found["prompt_tokens"] == {
        "tasks": NUM_PROMPTS,
        "min": lengths[0],
        "mean": sum(lengths) / NUM_PROMPTS,
        "max": lengths[-1],
    }
    assert planned(env)["prompt_tokens"] is None  # of a model that is not made yet


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"engine": {"max_context": 3}}, r"engine\.max_context: 3"),
        ({"env": {"id": "arithmetic", "budget": {"max_context": 3}}}, r"env\.budget\.max_context: 3"),
    ],
)
def test_prompts_that_leave_no_room_for_an_answer_are_refused(
    folder: Path, changes: dict[str, Any], field: str
) -> None:
    shortest = planned(model={"path": folder})["prompt_tokens"]["min"]
    with pytest.raises(RecipeError, match=f"{field} tokens .* the shortest has {shortest:.0f}; raise it"):
        planned(model={"path": folder}, **changes)
    room = int(shortest) + 1
    assert planned(model={"path": folder}, engine={"max_context": room})["max_row_tokens"] == room


def test_a_set_is_looked_at_all_over_and_a_task_that_reset_asks_has_no_prompt_yet(folder: Path) -> None:
    recipe = Recipe.model_validate({**BASE, "model": {"path": folder}, "engine": {"max_context": 330}})
    long_first = TaskSet(
        [Task(id=f"{n}", messages=(UserMessage("1" * 400 if n < 30 else "1"),)) for n in range(40)]
    )
    assert min(check_prompts(recipe, Arena(Env, long_first, HELD_OUT), folder)) < 330
    silent = TaskSet([Task(id=f"{n}", messages=(SystemMessage("Play."),) * (n % 2)) for n in range(9)])
    arena = Arena(Env, silent, HELD_OUT)
    assert check_prompts(recipe, arena, folder) == [] and plan(recipe, arena)["prompt_tokens"] is None
    probes = probe_prompts(Renderer.from_pretrained(folder), silent[:4])
    assert len(set(probes)) == 4 and all(probes)


def test_a_row_is_as_long_as_the_context_or_one_question_and_answer(folder: Path) -> None:
    assert planned(model={"path": folder})["max_row_tokens"] == 999
    assert planned(model={"path": folder}, engine={"max_context": 64})["max_row_tokens"] == 64
    one = planned(model={"path": folder}, env={"id": "arithmetic", "budget": {"max_turns": 1}})
    assert one["max_row_tokens"] == one["prompt_tokens"]["max"] + 20
    assert planned(model={"tiny": {"max_context": 70}})["max_row_tokens"] == 70


@pytest.mark.parametrize("seed", range(20))
def test_no_update_takes_more_micro_batches_than_is_said(seed: int) -> None:
    chance = random.Random(seed)
    longest, tokens = chance.randint(3, 40), chance.randint(3, 150)
    grpo = {**BASE["grpo"], "micro_batch_tokens": tokens}
    most = planned(model={"tiny": {"max_context": longest}}, grpo=grpo)["max_micro_batches_per_update"]
    lengths = [chance.choice([longest, chance.randint(2, longest)]) for _ in range(10)]
    rows = [make_row([7] * n, [False] + [True] * (n - 1), sample=k) for k, n in enumerate(lengths)]
    assert len(micro_batches(rows, tokens, torch.device("cpu"))) <= most
    if tokens < 2 * longest:
        assert most == 10


def test_a_prompt_that_the_chat_template_refuses_is_found_before_the_run(tmp_path: Path) -> None:
    make_tiny_model(TinyModel(), tmp_path, ["1 + 2 = 3"])
    template = tmp_path / "chat_template.jinja"
    refuse = "{% if messages[0]['content'] == '111' %}{{ raise_exception('no threes') }}{% endif %}"
    template.write_text(refuse + template.read_text())
    with pytest.raises(RecipeError, match=r"^env: task '2': the chat template refuses .* no threes"):
        planned(model={"path": tmp_path})
