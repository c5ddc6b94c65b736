"""`palaestra play`: one episode, live in the terminal."""

import asyncio
import dataclasses
import json
from functools import partial
from typing import Annotated

import typer
from pydantic import TypeAdapter
from rich.console import Console

from ..agents.trajectory import EpisodeKey, Trajectory
from ..envs import AssistantMessage, Failed, Message, ToolMessage
from ..trainer.recipe_file import RecipeError, load_recipe
from .console import only_json, open_console, print_json, printable
from .options import ApiKeyEnv, Json, ModelName, RecipePath, Sets, WhoPlays
from .policies import Seat, open_player
from .progress import TerminalProgress

STYLES = {"system": "dim", "user": "cyan", "assistant": "green", "tool": "yellow"}


def play(
    recipe: RecipePath,
    policy: WhoPlays = "oracle",
    model_name: ModelName = "",
    api_key_env: ApiKeyEnv = None,
    task: Annotated[int, typer.Option(help="Which held-out task.")] = 0,
    sample: Annotated[int, typer.Option(help="Which try; another one has another seed.")] = 0,
    overrides: Sets = None,
    as_json: Json = False,
) -> None:
    """Play one held-out task and watch. Exit code 1 when something broke under the episode."""
    console = open_console(stderr=as_json)
    loaded = load_recipe(recipe, overrides or ())
    seat = Seat(policy=policy, model_name=model_name, api_key_env=api_key_env)

    async def one() -> Trajectory:
        async with open_player(loaded, seat, TerminalProgress(console)) as player:
            tasks = player.arena.held_out
            if not 0 <= task < len(tasks):
                raise RecipeError(f"--task {task}: the held-out tasks are 0 .. {len(tasks) - 1}")
            chosen = tasks[task]
            key = EpisodeKey(split="play", epoch=0, task_id=chosen.id, sample=sample)
            rollout = dataclasses.replace(player.rollout, on_message=partial(_show, console))
            return await rollout(key, chosen, player.version)

    with only_json(as_json):
        trajectory = asyncio.run(one())
    if as_json:
        print_json(TypeAdapter(Trajectory).dump_python(trajectory, mode="json"))
    else:
        _show_end(console, trajectory)
    if isinstance(trajectory.outcome, Failed):
        raise typer.Exit(1)


def _show(console: Console, message: Message) -> None:
    """One message as it comes. Its text is not markup: models write brackets too."""
    console.print(f"{message.role:>10} │ ", style=STYLES[message.role], end="")
    text = printable(_text(message)).replace("\n", "\n           │ ")
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _text(message: Message) -> str:
    if isinstance(message, AssistantMessage):
        calls = [f"{call.name}({json.dumps(dict(call.arguments))})" for call in message.tool_calls]
        bad = [f"unreadable call: {call.error}: {call.text!r}" for call in message.bad_calls]
        thought = [f"({message.reasoning})"] if message.reasoning else []
        return "\n".join([*thought, *([message.content] if message.content else []), *calls, *bad])
    prefix = "error: " if isinstance(message, ToolMessage) and message.is_error else ""
    return prefix + message.content


def _show_end(console: Console, trajectory: Trajectory) -> None:
    episode, num_sampled = trajectory.episode, trajectory.graph.num_sampled
    lines = (
        f"{episode.stop.value} after {episode.num_turns} turns: {trajectory.outcome}",
        f"environment {episode.timing.env_s:.3f} s, policy {episode.timing.policy_s:.3f} s, "
        f"{num_sampled} tokens sampled",
    )
    console.print(printable("\n".join(lines)), markup=False, highlight=False, soft_wrap=True)
