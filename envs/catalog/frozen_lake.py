"""Gymnasium's FrozenLake in words: cross from S to G and step on no hole H."""

import string
from collections.abc import Sequence
from typing import Any

import gymnasium
from gymnasium.envs.toy_text.frozen_lake import MAPS

from ..budget import Budget
from ..gym import GymnasiumEnv
from ..message import Message, SystemMessage, UserMessage
from ..policy import Policy
from ..scripted import ScriptedPolicy
from ..task import Task, TaskSet
from ._lake_maps import MOVES, random_maps, shortest_way

INSTRUCTIONS = "Walk from S to G; H is a hole. Answer with one word: left, down, right or up."


class FrozenLake(GymnasiumEnv):
    """The map is shown once; each step tells the position as "at row column".

    A way that is over `max_steps` moves long, or ends in a hole, earns 0; the goal earns 1. With
    `repeat_map`, every step shows the map again: small models need not look far back for it.
    """

    budget = Budget(max_turns=32)

    def __init__(self, *, repeat_map: bool = False) -> None:
        super().__init__(_make, describe=_describe_on_map if repeat_map else _describe, parse=_parse)

    @classmethod
    def tasks(
        cls,
        *,
        size: int | None = None,
        num_maps: int = 1,
        seed: int = 0,
        frozen: float = 0.8,
        is_slippery: bool = False,
        max_steps: int | None = None,
        instructions: str = INSTRUCTIONS,
    ) -> TaskSet:
        """The standard 4x4 map, or `num_maps` random ones of `size`, all different.

        `frozen`: a tile's chance to be ice.

        `max_steps`: None is 4 times the size, and 25 times on slippery ice.
        """
        if size is None and num_maps != 1:
            raise ValueError(f"num_maps={num_maps} needs a size: there is one standard map")
        if size is None:
            names, maps = ["4x4"], [MAPS["4x4"]]
        else:
            names = [f"{size}x{size}-{seed}-{number}" for number in range(num_maps)]
            maps = random_maps(size, num_maps, frozen, seed)
        opening: tuple[Message, ...] = (SystemMessage(instructions),) if instructions else ()
        steps_per_row = 25 if is_slippery else 4
        return TaskSet(
            Task(
                id=f"{name}{'-slippery' if is_slippery else ''}",
                messages=(*opening, UserMessage("\n".join(rows))),
                private={
                    "rows": rows,
                    "is_slippery": is_slippery,
                    "max_steps": max_steps or steps_per_row * len(rows),
                },
            )
            for name, rows in zip(names, maps, strict=True)
        )

    @classmethod
    def oracle(cls, task: Task) -> Policy:
        """Takes a shortest way from wherever it stands; on slippery ice that is no guarantee."""

        def move(conversation: Sequence[Message]) -> str:
            row, column = conversation[-1].content.split()[-2:]
            return shortest_way(task.private["rows"], (int(row), int(column)))[0]

        return ScriptedPolicy([move] * int(task.private["max_steps"]))


def _make(task: Task) -> gymnasium.Env[Any, Any]:
    return gymnasium.make(
        "FrozenLake-v1",
        desc=task.private["rows"],
        is_slippery=task.private["is_slippery"],
        max_episode_steps=task.private["max_steps"],
    )


def _describe(game: gymnasium.Env[Any, Any], observation: Any) -> str:
    num_columns: int = game.get_wrapper_attr("ncol")
    row, column = divmod(int(observation), num_columns)
    return f"at {row} {column}"


def _describe_on_map(game: gymnasium.Env[Any, Any], observation: Any) -> str:
    described = _describe(game, observation)
    if game.get_wrapper_attr("lastaction") is None:  # the task's own messages show the map
        return described
    rows = [b"".join(row).decode() for row in game.get_wrapper_attr("desc")]
    return "\n".join([*rows, described])


def _parse(text: str) -> int:
    named = {word.strip(string.punctuation) for word in text.lower().split()} & MOVES.keys()
    if len(named) != 1:
        raise ValueError(f"that names {len(named)} moves; answer with one word: left, down, right or up")
    return list(MOVES).index(named.pop())
