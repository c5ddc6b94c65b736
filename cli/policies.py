"""Who plays: an oracle, a model behind the recipe's engine, or a chat endpoint."""

import tempfile
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from ..agents.chat import ChatPolicy
from ..agents.engine import PolicyVersion
from ..agents.rollout import Rollout
from ..trainer.arena import Arena
from ..trainer.parts import load_renderer, make_plain_rollout, make_rollout, open_engine
from ..trainer.preflight import check_engine, check_oracle, preflight
from ..trainer.recipe import Recipe
from ..trainer.recipe_file import RecipeError
from ..trainer.reporting.progress import Progress
from ..trainer.weights.lineage import find_origin, write_whole_model

START = PolicyVersion(0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Seat:
    """Who was asked for by `--policy` and the options beside it."""

    policy: str
    """"oracle", "model" (the recipe's own), a model folder, or the URL of a chat endpoint."""
    model_name: str = ""
    """The model at the endpoint."""
    api_key_env: str | None = None
    """Environment variable with the endpoint's key."""

    @property
    def is_endpoint(self) -> bool:
        return self.policy.startswith(("http://", "https://"))

    def model(self, recipe: Recipe) -> Path | None:
        """The folder of the weights that play, if any do. Raises `RecipeError` where there is none."""
        if self.policy == "oracle" or self.is_endpoint:
            return None
        if self.policy != "model":
            return find_origin(Path(self.policy), "--policy").folder
        if recipe.model.path is None:
            raise RecipeError(
                "--policy model: the recipe has no model.path, its model is made by training; "
                f'give a folder such as {recipe.folder / "policy"}, or "oracle"'
            )
        return recipe.model.path


@dataclass(frozen=True, kw_only=True, slots=True)
class Player:
    """Somebody who plays a recipe's environment."""

    arena: Arena
    rollout: Rollout
    version: PolicyVersion = START


@asynccontextmanager
async def open_player(recipe: Recipe, seat: Seat, progress: Progress) -> AsyncGenerator[Player, None]:
    """Whoever was asked for, ready to play. Raises `RecipeError` and what `preflight` raises."""
    folder = seat.model(recipe)
    async with aclosing(await preflight(recipe, trains=False)) as arena:
        if folder is not None:
            await check_engine(recipe)
            with tempfile.TemporaryDirectory(prefix="palaestra-") as scratch:
                whole = _whole_model(folder, Path(scratch) / "model")
                served = recipe.model_copy(update={"runs_dir": Path(scratch)})  # for a server's log
                async with open_engine(served, whole, progress) as engine:
                    renderer = load_renderer(recipe, whole)
                    sampling = recipe.evaluation_sampling
                    yield Player(arena=arena, rollout=make_rollout(recipe, arena, engine, renderer, sampling))
        elif seat.is_endpoint:
            async with _open_chat(recipe, seat) as chat:
                yield Player(arena=arena, rollout=make_plain_rollout(recipe, arena, lambda task: chat))
        else:
            check_oracle(arena, "--policy oracle")
            yield Player(arena=arena, rollout=make_plain_rollout(recipe, arena, arena.env.oracle))


def _whole_model(folder: Path, scratch: Path) -> Path:
    """The folder, or for an adapter or a checkpoint `scratch` with the model that it makes."""
    if (folder / "config.json").is_file():
        return folder
    write_whole_model(find_origin(folder), scratch)
    return scratch


def _open_chat(recipe: Recipe, seat: Seat) -> ChatPolicy:
    if not seat.model_name:
        raise RecipeError(f"--policy {seat.policy}: needs --model-name, the model's name at the endpoint")
    sampling = recipe.evaluation_sampling
    options = {"temperature": sampling.temperature, "max_tokens": sampling.max_tokens}
    if sampling.top_p < 1:
        options["top_p"] = sampling.top_p
    try:
        return ChatPolicy(seat.policy, seat.model_name, api_key_env=seat.api_key_env, options=options)
    except ValueError as error:
        raise RecipeError(f"--policy with --api-key-env {seat.api_key_env}: {error}") from error
