"""Who plays: an oracle, a model behind the recipe's engine, or a chat endpoint."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..agents.chat import ChatPolicy
from ..agents.engine import PolicyVersion
from ..agents.rollout import Rollout
from ..envs import Policy, Task
from ..trainer.parts import Arena, load_arena, load_renderer, make_rollout, open_engine
from ..trainer.recipe import Recipe
from ..trainer.recipe_file import RecipeError

START = PolicyVersion(0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Player:
    """Somebody who plays a recipe's environment."""

    arena: Arena
    rollout: Rollout
    version: PolicyVersion = START


@asynccontextmanager
async def open_player(
    recipe: Recipe, policy: str, *, model_name: str = "", api_key_env: str | None = None
) -> AsyncGenerator[Player, None]:
    """`policy`: "oracle", "model" (the recipe's own), a model folder, or the URL of a chat endpoint."""
    arena = load_arena(recipe)
    if policy == "oracle":
        yield Player(arena=arena, rollout=_rollout(recipe, arena, lambda task: arena.env.oracle(task)))
    elif policy.startswith(("http://", "https://")):
        chat = ChatPolicy(
            policy,
            model_name,
            api_key_env=api_key_env,
            temperature=recipe.sampling.temperature,
            max_tokens=recipe.sampling.max_tokens,
        )
        async with chat:
            yield Player(arena=arena, rollout=_rollout(recipe, arena, lambda task: chat))
    else:
        folder = recipe.model.path if policy == "model" else Path(policy)
        if folder is None or not (folder / "config.json").is_file():
            raise RecipeError(
                f"--policy {policy}: no model there; give a model folder such as runs/NAME/policy, "
                'or "oracle", or the URL of a chat endpoint'
            )
        async with open_engine(recipe, folder) as engine:
            renderer = load_renderer(recipe, folder)
            temperature = recipe.sampling.temperature
            yield Player(arena=arena, rollout=make_rollout(recipe, arena, engine, renderer, temperature))


def _rollout(recipe: Recipe, arena: Arena, make: Any) -> Rollout:
    """A rollout by a policy without tokens of ours."""

    def make_policy(task: Task, version: PolicyVersion, seed: int) -> Policy:
        policy: Policy = make(task)
        return policy

    return Rollout(
        make_env=lambda: arena.env(**recipe.env.options),
        make_policy=make_policy,
        run_seed=recipe.seed,
        budget=recipe.env.budget,
        grader_timeout_s=recipe.env.grader_timeout_s,
    )
