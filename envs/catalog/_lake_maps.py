"""Maps of frozen lakes, and the ways across them."""

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import count

from gymnasium.envs.toy_text.frozen_lake import generate_random_map

MOVES = {"left": (0, -1), "down": (1, 0), "right": (0, 1), "up": (-1, 0)}
"""(rows, columns), in Gymnasium's order of actions."""


def shortest_way(rows: Sequence[str], start: tuple[int, int]) -> list[str]:
    """The moves from `start` to the goal around the holes; empty when there is none.

    >>> shortest_way(["SF", "HG"], (0, 0))
    ['right', 'down']
    """
    ways: dict[tuple[int, int], list[str]] = {start: []}
    queue = deque([start])
    while queue:
        here = queue.popleft()
        if rows[here[0]][here[1]] == "G":
            return ways[here]
        for name, there in _neighbours(rows, here):
            if there not in ways:
                ways[there] = [*ways[here], name]
                queue.append(there)
    return []


def _neighbours(rows: Sequence[str], here: tuple[int, int]) -> Iterator[tuple[str, tuple[int, int]]]:
    for name, (down, right) in MOVES.items():
        row, column = here[0] + down, here[1] + right
        if 0 <= row < len(rows) and 0 <= column < len(rows[0]) and rows[row][column] != "H":
            yield name, (row, column)


def random_maps(size: int, num_maps: int, frozen: float, seed: int) -> list[list[str]]:
    """Maps with a way to the goal. Raises `ValueError` when 1000 tries on end bring no new one."""
    maps: list[list[str]] = []
    seen: set[str] = set()
    num_vain = 0
    for map_seed in count(seed):
        if len(maps) == num_maps or num_vain == 1000:
            break
        rows = generate_random_map(size, frozen, seed=map_seed)
        num_vain = num_vain + 1 if "".join(rows) in seen else 0
        if not num_vain:
            seen.add("".join(rows))
            maps.append(rows)
    if len(maps) < num_maps:
        raise ValueError(
            f"num_maps={num_maps}: found only {len(maps)} different {size}x{size} maps with frozen={frozen}; "
            "ask for fewer, or for a larger size"
        )
    return maps
