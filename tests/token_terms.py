"""Token terms by hand, and gradients of their losses."""

import torch
from torch import Tensor

from palaestra.trainer.objective.terms import TokenTerms


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def terms(logprobs_N: Tensor, advantages_N: Tensor, engine_N: Tensor, **more: Tensor) -> TokenTerms:
    """Of one row, unless `more` says otherwise."""
    return TokenTerms(
        logprobs_N=logprobs_N,
        entropy_N=more.pop("entropy_N", torch.zeros_like(logprobs_N)),
        engine_logprobs_N=engine_N,
        advantages_N=advantages_N,
        row_N=more.pop("row_N", torch.zeros_like(logprobs_N, dtype=torch.long)),
        **more,
    )


def grad(loss: Tensor, of: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(loss, of, retain_graph=True)
    return found
