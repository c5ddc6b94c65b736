"""`palaestra play`: one episode, live in the terminal."""

import asyncio
import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ..agents.trajectory import EpisodeKey, Trajectory
from ..envs import AssistantMessage, Message, ToolMessage
from ..trainer.recipe_file import load_recipe
from .policies import open_player

STYLES = {"system": "dim", "user": "cyan", "assistant": "green", "tool": "yellow"}


def play(
    recipe: Annotated[Path, typer.Argument(help="A recipe, for its environment, model and engine.")],
    policy: Annotated[
        str, typer.Option(help='"oracle", "model", a model folder, or the URL of a chat endpoint.')
    ] = "oracle",
    model_name: Annotated[str, typer.Option(help="Model at the chat endpoint.")] = "",
    api_key_env: Annotated[
        str | None, typer.Option(help="Environment variable with the endpoint's key.")
    ] = None,
    task: Annotated[int, typer.Option(help="Which held-out task.")] = 0,
    sample: Annotated[int, typer.Option(help="Which try; another one has another seed.")] = 0,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Override a field: a.b=value.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the episode as JSON.")] = False,
) -> None:
    """Play one held-out task and watch."""
    console = Console(stderr=as_json)
    loaded = load_recipe(recipe, overrides or ())

    async def one() -> Trajectory:
        async with open_player(loaded, policy, model_name=model_name, api_key_env=api_key_env) as player:
            tasks = player.arena.held_out
            if not 0 <= task < len(tasks):
                raise typer.BadParameter(f"--task {task}: there are {len(tasks)} held-out tasks")
            chosen = tasks[task]
            key = EpisodeKey(split="play", epoch=0, task_id=chosen.id, sample=sample)
            rollout = dataclasses.replace(player.rollout, on_message=lambda message: _show(console, message))
            return await rollout(key, chosen, player.version)

    trajectory = asyncio.run(one())
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(trajectory), default=str))
        return
    episode = trajectory.episode
    console.print(f"[bold]{episode.stop.value}[/bold] after {episode.num_turns} turns: {trajectory.outcome}")
    console.print(
        f"environment {episode.timing.env_s:.3f} s, policy {episode.timing.policy_s:.3f} s, "
        f"{trajectory.graph.num_sampled} tokens sampled"
    )


def _show(console: Console, message: Message) -> None:
    """One message as it comes. Its text is not markup: models write brackets too."""
    console.print(f"{message.role:>10} │ ", style=STYLES[message.role], end="")
    console.print(_text(message), markup=False, highlight=False)


def _text(message: Message) -> str:
    if isinstance(message, AssistantMessage):
        calls = [f"{call.name}({json.dumps(dict(call.arguments))})" for call in message.tool_calls]
        bad = [f"unreadable call: {call.error}: {call.text!r}" for call in message.bad_calls]
        thought = [f"({message.reasoning})"] if message.reasoning else []
        return "\n           │ ".join(
            [*thought, *([message.content] if message.content else []), *calls, *bad]
        )
    prefix = "error: " if isinstance(message, ToolMessage) and message.is_error else ""
    return prefix + message.content
