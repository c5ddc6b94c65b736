"""Log-probabilities of the trained tokens. N: trained tokens, V: vocabulary, E: hidden size."""

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ._torch import hidden_states, output_head, recomputed
from .packing import MicroBatch


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenLogprobs:
    """[N] each, in fp32 or better."""

    logprobs_N: Tensor
    entropy_N: Tensor
    """With a gradient only where it was asked for."""


def token_logprobs(
    model: PreTrainedModel,
    micro: MicroBatch,
    *,
    temperature: float,
    chunk: int,
    entropy_gradient: bool = False,
) -> TokenLogprobs:
    """The model's word on each trained token, of the distribution logits / temperature.

    The head runs on the positions that predict a trained token, `chunk` of them at a time. With more than
    one chunk the logits are made again in the backward pass, so that [N, V] never exists as a whole.
    """
    hidden_NE = hidden_states(model, micro.inputs_BT).flatten(0, 1).index_select(0, micro.source_N)
    head = output_head(model)
    pieces: list[tuple[Tensor, Tensor]] = []
    for start in range(0, len(micro.targets_N), chunk):
        part = slice(start, start + chunk)
        arguments = (head, hidden_NE[part], micro.targets_N[part], temperature, entropy_gradient)
        if len(micro.targets_N) > chunk and torch.is_grad_enabled():
            pieces.append(recomputed(_head, *arguments))
        else:
            pieces.append(_head(*arguments))
    logprobs, entropies = zip(*pieces, strict=True)
    return TokenLogprobs(logprobs_N=torch.cat(logprobs), entropy_N=torch.cat(entropies))


def _head(
    head: nn.Module, hidden_NE: Tensor, targets_N: Tensor, temperature: float, entropy_gradient: bool
) -> tuple[Tensor, Tensor]:
    logits_NV: Tensor = head(hidden_NE)
    exact = torch.promote_types(logits_NV.dtype, torch.float32)
    logprobs_NV = (logits_NV.to(exact) / temperature).log_softmax(-1)
    with nullcontext() if entropy_gradient else torch.no_grad():
        entropy_N = -(logprobs_NV.exp() * logprobs_NV).sum(-1)
    return logprobs_NV.gather(1, targets_N[:, None])[:, 0], entropy_N


def check_head(model: PreTrainedModel) -> None:
    """Refuse a model whose logits are more than its head on its decoder's last state (soft caps, scales)."""
    with torch.no_grad():
        ids = torch.tensor([[0, 1, 2, 3]], device=model.device)
        ours: Tensor = output_head(model)(hidden_states(model, ids))
        theirs: Tensor = model(input_ids=ids, use_cache=False).logits
    gap = float((ours - theirs).abs().max())
    if gap > 1e-3:
        kind = type(model).__name__
        raise ValueError(
            f"{kind} changes its logits after the head (by up to {gap:.3g}), which the trainer would leave "
            "out; use a model without logit soft caps or scales"
        )
