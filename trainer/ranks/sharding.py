"""A model whose weights, gradients and optimizer state lie in parts on all ranks: torch's FSDP2."""

from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Any, Literal, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel

from ...agents.tokengraph import TokenRow
from ...agents.trajectory import EpisodeKey
from .._torch import hidden_states, modules
from ..batches.packing import MicroBatch, micro_batches
from ..batches.rows import Row
from .processes import Ranks

T = TypeVar("T")


class Policy(nn.Module):
    """A model whose forward pass ends with a use of its last hidden states, as by the head: under FSDP2 the
    weights are whole inside of it only."""

    def __init__(self, model: PreTrainedModel, dtype: torch.dtype | None = None) -> None:
        """`dtype`: what the layers compute in, by autocast; None: their own."""
        super().__init__()
        self.model, self.dtype = model, dtype

    def forward(self, micro: MicroBatch, use: Callable[[Tensor], T]) -> T:
        """What `use` makes of the hidden states, [T, E]. To go backward it is one tensor that is no view:
        FSDP2 hooks onto it."""
        device = micro.inputs_T.device.type
        with torch.autocast(device, dtype=self.dtype, enabled=self.dtype is not None):
            hidden_TE = hidden_states(self.model, micro.inputs_T, micro.positions_T, micro.layout)
        return use(hidden_TE)


def shard(policy: Policy, ranks: Ranks, dtype: Literal["float32", "bfloat16"] = "float32") -> None:
    """Spread the parameters over the ranks, in place. Gradients are summed over them, not averaged.

    Each layer is gathered when it computes; embeddings, norms and head stay whole from the forward pass to
    the backward pass. `dtype`: of the computation. In bfloat16 layers travel, and are whole, in half the
    bytes, so that their norms are rounded too, as in vLLM, which is all that sets the loss apart from that of
    one process. The rest does not: a head's gradient is a sum over chunks, which half precision would lose.
    Gradients are summed over the ranks in float32.
    """
    untyped: Any = fully_shard
    half = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    precision = {"mp_policy": half} if dtype == "bfloat16" else {}
    for _, module in modules(policy.model):
        if isinstance(module, nn.ModuleList):
            for layer in module:
                untyped(layer, mesh=ranks.mesh, **precision)
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


def idle_pass(device: torch.device) -> MicroBatch:
    """One token that nothing is to be learned from: a rank that is done keeps step with the others."""
    tokens = TokenRow(ids=(0, 0), mask=(False, True), logprobs=(0.0, 0.0), versions=(-1, -1))
    key = EpisodeKey(split="idle", epoch=0, task_id="", sample=0)
    (micro,) = micro_batches(
        [Row(key=key, tokens=tokens, advantages=(0.0, 0.0), episode_tokens=1)], 1, device
    )
    return micro
