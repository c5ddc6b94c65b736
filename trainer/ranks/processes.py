"""Several processes that share one learner: torch.distributed on gloo (CPU) or NCCL (GPU).

    torchrun --no-python --nproc-per-node 2 palaestra train recipe.yaml

Rank 0 collects, publishes and writes; the others learn with it (`leader.py`). Each has a part of the weights
(`sharding.py`) and trains a part of the rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import reduce
from operator import add
from typing import Any, TypeVar, cast

import torch
import torch.distributed

from .._torch import own_device
from ..batches.rows import Normaliser

T = TypeVar("T")

_PATIENCE = timedelta(days=30)
"""How long a rank waits for the next command: collecting, and what a grader takes, may be hours. The way out
when the first rank fails meanwhile is `watch.py`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranks:
    """This process among the others. Every method is called by all ranks, in the same order."""

    rank: int
    world: int
    device: str
    """Of the weights: "cpu", or "cuda:N"."""
    mesh: Any
    """torch's DeviceMesh over all ranks."""
    control: Any
    """A gloo group for what is not a gradient."""

    @classmethod
    def open(cls, wanted: str = "auto") -> "Ranks":
        """Join the processes that torchrun started; waits for all of them. `wanted`: a device, as a recipe
        names it."""
        distributed: Any = torch.distributed
        untyped: Any = torch
        device = own_device(wanted)
        is_gpu = device != "cpu"
        if is_gpu:
            untyped.cuda.set_device(device)
        distributed.init_process_group("cpu:gloo,cuda:nccl" if is_gpu else "gloo")
        world = distributed.get_world_size()
        return cls(
            rank=distributed.get_rank(),
            world=world,
            device=device,
            mesh=distributed.device_mesh.init_device_mesh(device.partition(":")[0], (world,)),
            control=distributed.new_group(backend="gloo", timeout=_PATIENCE),
        )

    def close(self) -> None:
        distributed: Any = torch.distributed
        distributed.destroy_process_group()

    def gather(self, value: T) -> list[T]:
        """[world] what each rank has."""
        found: list[Any] = [None] * self.world
        distributed: Any = torch.distributed
        distributed.all_gather_object(found, value, group=self.control)
        return cast(list[T], found)

    def tell(self, value: T | None = None) -> T:
        """What rank 0 has; the others pass nothing."""
        box: list[Any] = [value]
        distributed: Any = torch.distributed
        distributed.broadcast_object_list(box, src=0, group=self.control)
        return cast(T, box[0])

    def total(self, normaliser: Normaliser) -> Normaliser:
        """What one optimizer step of all ranks divides by."""
        return reduce(add, self.gather(normaliser))

    def most(self, number: int) -> int:
        """The largest of the ranks' numbers."""
        return max(self.gather(number))


def deal(sizes: Sequence[int], num_hands: int) -> list[list[int]]:
    """Indices for each hand, so that their sizes sum to about the same: the longest first, to the lightest.

    >>> deal([5, 1, 4, 2], 2)
    [[0, 1], [2, 3]]
    """
    hands: list[list[int]] = [[] for _ in range(num_hands)]
    weights = [0] * num_hands

    for index in sorted(range(len(sizes)), key=lambda index: -sizes[index]):
        lightest = weights.index(min(weights))
        hands[lightest].append(index)
        weights[lightest] += sizes[index]
    return [sorted(hand) for hand in hands]
