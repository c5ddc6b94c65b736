"""A model whose weights, gradients and optimizer state lie in parts on all ranks: torch's FSDP2."""

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel

from ...agents.tokengraph import TokenRow
from ...agents.trajectory import EpisodeKey
from .._torch import modules
from ..batches.logprobs import Head, token_logprobs
from ..batches.packing import MicroBatch, micro_batches
from ..batches.rows import Row
from .processes import Ranks


class Policy(nn.Module):
    """A model whose forward pass is `token_logprobs`: under FSDP2, weights are whole inside of it only."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, micro: MicroBatch, head: Head) -> tuple[Tensor, Tensor]:
        """([N] logprobs, [N] entropies), a tuple because FSDP2 looks for tensors in those."""
        got = token_logprobs(self.model, micro, head)
        return got.logprobs_N, got.entropy_N


def shard(policy: Policy, ranks: Ranks) -> None:
    """Spread the parameters over the ranks, in place. Gradients are summed over them, not averaged.

    Each layer is gathered when it computes; embeddings, norms and head stay whole from the forward pass to
    the backward pass.
    """
    untyped: Any = fully_shard
    for _, module in modules(policy.model):
        if isinstance(module, nn.ModuleList):
            for layer in module:
                untyped(layer, mesh=ranks.mesh)
    untyped(policy, mesh=ranks.mesh)
    for module in _sharded(policy):
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)  # gloo knows no average


@contextmanager
def without_gradient(policy: Policy) -> Generator[None, None, None]:
    """Forward passes alone. Afterwards no weights are whole any more: such copies would outlive a change."""
    try:
        with torch.no_grad():
            yield
    finally:
        for module in _sharded(policy):
            module.reshard()


def _sharded(policy: Policy) -> list[FSDPModule]:
    return [module for module in policy.modules() if isinstance(module, FSDPModule)]


def whole(tensor: Tensor) -> Tensor:
    """A tensor that may lie in parts, put together; every rank has to ask."""
    return cast(Any, tensor).full_tensor() if isinstance(tensor, DTensor) else tensor


def collected(tensors: Iterable[tuple[str, Tensor]], ranks: Ranks | None) -> dict[str, Tensor]:
    """By name. Of several ranks all have to ask, and the first gets them, whole, on the processor: one after
    the other, so that no GPU ever holds more than one of them. Without ranks they are where they are.
    """
    if ranks is None:
        return dict(tensors)
    found: dict[str, Tensor] = {}
    for name, tensor in tensors:
        complete = whole(tensor)
        if ranks.rank == 0:
            found[name] = complete.cpu()
    return found


def like(tensor: Tensor, pattern: Tensor) -> Tensor:
    """A whole tensor, in parts and on the device as the pattern is."""
    if not isinstance(pattern, DTensor) or tensor.shape != pattern.shape:
        return tensor.to(pattern.device)
    untyped: Any = distribute_tensor
    found = untyped(tensor.to(pattern.device), pattern.device_mesh, pattern.placements, src_data_rank=None)
    return cast(Tensor, found)


def idle_loss(logprobs_N: Tensor) -> Tensor:
    """0, with a gradient of 0, of whatever an idle pass has found: -inf times 0 would be no number."""
    return 0.0 * logprobs_N.nan_to_num().sum()


def idle_pass(device: torch.device) -> MicroBatch:
    """One token that nothing is to be learned from: a rank that is done keeps step with the others."""
    tokens = TokenRow(ids=(0, 0), mask=(False, True), logprobs=(0.0, 0.0), versions=(-1, -1))
    key = EpisodeKey(split="idle", epoch=0, task_id="", sample=0)
    (micro,) = micro_batches(
        [Row(key=key, tokens=tokens, advantages=(0.0, 0.0), episode_tokens=1)], 1, device
    )
    return micro
