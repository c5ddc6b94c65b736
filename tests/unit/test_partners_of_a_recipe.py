"""`env.partners` of a recipe: chat endpoints that play a part inside the environment."""

from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web
from support import run_async

from palaestra.agents.engine import PolicyVersion
from palaestra.agents.trajectory import EpisodeKey, Trajectory
from palaestra.envs import Scored
from palaestra.envs.user import RULES, STOP
from palaestra.trainer.arena import load_arena
from palaestra.trainer.parts import make_plain_rollout
from palaestra.trainer.preflight import preflight
from palaestra.trainer.recipe import Recipe
from palaestra.trainer.recipe_file import RecipeError, load_recipe


@dataclass
class Customer:
    """An endpoint behind which somebody has a wish, and is content with the first answer."""

    url: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    async def answer(self, request: web.Request) -> web.Response:
        asked = await request.json()
        self.asked.append(asked)
        is_new = len(asked["messages"]) == 2
        message = {"role": "assistant", "content": "I have a wish." if is_new else STOP}
        return web.json_response({"choices": [{"index": 0, "finish_reason": "stop", "message": message}]})


@asynccontextmanager
async def customer() -> AsyncGenerator[Customer]:
    found = Customer()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", found.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        found.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        yield found
    finally:
        await runner.cleanup()


def recipe(folder: Path, **env: Any) -> Recipe:
    path = folder / "recipe.yaml"
    fields = {"id": "retail", "tasks": {"size": 6}, "held_out": 2, **env}
    path.write_text(yaml.safe_dump({"name": "x", "seed": 5, "env": fields, "grpo": {"steps": 1}}))
    return load_recipe(path)


def test_the_user_of_a_recipe_talks_to_the_agent(tmp_path: Path) -> None:
    async def main() -> tuple[Trajectory, str, list[dict[str, Any]]]:
        async with customer() as found:
            user = {"url": found.url, "model": "someone", "options": {"temperature": 0.5}}
            loaded = recipe(tmp_path, partners={"user": user})
            async with aclosing(await preflight(loaded, trains=False)) as arena:
                task = arena.held_out[0]
                rollout = make_plain_rollout(loaded, arena, arena.env.oracle)
                key = EpisodeKey(split="x", epoch=0, task_id=task.id, sample=0)
                return await rollout(key, task, PolicyVersion(0)), task.private["notes"], found.asked

    trajectory, notes, asked = run_async(main())
    assert isinstance(trajectory.outcome, Scored) and trajectory.outcome.reward == 1.0
    said = [message.content for message in trajectory.episode.messages if message.role == "user"]
    assert said == ["I have a wish."]
    assert [request["model"] for request in asked] == ["someone"] * 2
    assert asked[0]["temperature"] == 0.5 and isinstance(asked[0]["seed"], int)
    assert asked[0]["messages"][0] == {"role": "system", "content": f"{RULES}\n\n{notes}"}
    assert "tools" not in asked[0]


@pytest.mark.parametrize(
    ("env", "words"),
    [
        (
            {"partners": {"judge": {"url": "http://127.0.0.1:1/v1", "model": "m"}}},
            ["env.partners", "'judge'", "takes: user"],
        ),
        (
            {"partners": {"user": {"url": "http://x/v1", "model": "m", "api_key_env": "NO_SUCH_KEY"}}},
            ["env.partners.user", "NO_SUCH_KEY", "export the key"],
        ),
        (
            {"options": {"user": 1}, "partners": {"user": {"url": "http://127.0.0.1:1/v1", "model": "m"}}},
            ["env.partners.user", "env.options", "leave it out"],
        ),
    ],
)
def test_a_partner_that_cannot_play_is_named_before_the_run(
    tmp_path: Path, env: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(RecipeError) as error:
        run_async(preflight(recipe(tmp_path, **env), trains=False))
    assert [word for word in words if word not in str(error.value)] == []


def test_a_partner_without_a_model_is_refused_by_its_field(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"env\.partners\.user\.model"):
        recipe(tmp_path, partners={"user": {"url": "http://127.0.0.1:1/v1"}})


def test_without_partners_the_environment_gets_its_options_alone(tmp_path: Path) -> None:
    assert load_arena(recipe(tmp_path)).options == {}
