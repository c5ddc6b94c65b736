"""Sampling whose randomness is a function of (seed, position) alone.

Shapes: R rows, V vocabulary.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampled:
    """One token per row."""

    ids_R: npt.NDArray[np.int64]
    logprobs_R: npt.NDArray[np.float64]
    """Nats, of the distribution that was sampled from; greedy rows report temperature 1, as vLLM does."""


def uniforms(seeds_R: npt.NDArray[np.uint64], positions_R: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """[R] numbers in [0, 1), one per seed and position: nothing else in the batch has a part in them."""
    mixed = _mix(_mix(seeds_R) + positions_R.astype(np.uint64) * _GOLDEN)
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53


@torch.inference_mode()
def sample(
    logits_RV: Tensor,
    temperatures_R: npt.NDArray[np.float64],
    top_p_R: npt.NDArray[np.float64],
    uniforms_R: npt.NDArray[np.float64],
) -> Sampled:
    """Invert the cumulative distribution at each row's uniform number; temperature 0 takes the maximum."""
    logits = logits_RV.to(torch.promote_types(logits_RV.dtype, torch.float32))
    divisors = np.where(temperatures_R == 0, 1.0, temperatures_R)
    if (divisors != 1).any():
        logits = logits / torch.as_tensor(divisors, dtype=logits.dtype, device=logits.device)[:, None]
    logprobs = torch.log_softmax(logits, dim=-1)
    if (top_p_R < 1).any():
        logprobs = _nucleus(logprobs, torch.as_tensor(top_p_R, dtype=logits.dtype, device=logits.device))
    cumulative = logprobs.exp().cumsum(dim=-1, dtype=torch.float64)
    points = torch.as_tensor(uniforms_R, device=logits.device)[:, None] * cumulative[:, -1:]
    ids = torch.searchsorted(cumulative, points, right=True).clamp_(max=logits.shape[-1] - 1)
    if (temperatures_R == 0).any():
        greedy = torch.as_tensor(temperatures_R == 0, device=logits.device)[:, None]
        ids = torch.where(greedy, logprobs.argmax(dim=-1, keepdim=True), ids)
    chosen = logprobs.gather(-1, ids)[:, 0]
    return Sampled(ids_R=ids[:, 0].cpu().numpy(), logprobs_R=chosen.double().cpu().numpy())


def _nucleus(logprobs_RV: Tensor, top_p_R: Tensor) -> Tensor:
    """Keep the smallest set of likeliest tokens whose mass reaches top_p, and normalise again."""
    ordered, order = logprobs_RV.sort(dim=-1, descending=True)
    mass = ordered.exp()
    drop = (mass.cumsum(dim=-1) - mass >= top_p_R[:, None]) & (top_p_R[:, None] < 1)
    kept = ordered.masked_fill(drop, float("-inf"))
    kept = kept - torch.where(top_p_R[:, None] < 1, kept.logsumexp(dim=-1, keepdim=True), 0.0)
    return torch.empty_like(logprobs_RV).scatter_(-1, order, kept)


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finaliser of splitmix64; arrays wrap around in silence, as it needs."""
    x = x + _GOLDEN
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
