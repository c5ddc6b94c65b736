"""Log-probabilities from hidden states and a head's matrix, with their gradient in closed form.

There is one buffer: logits, then their exponentials, then (where it must) their gradient. torch's own way
holds four, and goes through memory a dozen times. N: positions, V: vocabulary, E: hidden size.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

_BLOCK = {"cpu": 1 << 18, "cuda": 1 << 26}
"""Elements that are worked on at once: what a processor's cache holds, or what keeps a GPU busy."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Softmax:
    """The distributions of some positions."""

    hidden_NE: Tensor
    targets_N: Tensor
    exps_NV: Tensor
    """exp((logits - their maximum) / temperature), in the head's buffer."""
    sums_N: Tensor
    """Of the exponentials."""
    logprobs_N: Tensor
    """Of the targets, nats."""
    entropy_N: Tensor
    """Nats."""


@dataclass(kw_only=True, slots=True)
class SoftmaxHead:
    """softmax(hidden @ weight.T / temperature), for a weight without a bias."""

    weight_VE: nn.Parameter
    matrix_VE: Tensor
    """The weight in the precision of the products."""
    temperature: float
    _buffer_NV: Tensor = field(repr=False)
    _newest: Softmax | None = field(default=None, repr=False)

    @classmethod
    def of(cls, weight_VE: nn.Parameter, dtype: torch.dtype, temperature: float, rows: int) -> "SoftmaxHead":
        """`rows`: most positions of one call."""
        matrix_VE = weight_VE.detach().to(dtype)
        buffer_NV = matrix_VE.new_empty((rows, len(matrix_VE)))
        return cls(weight_VE=weight_VE, matrix_VE=matrix_VE, temperature=temperature, _buffer_NV=buffer_NV)

    def forward(self, hidden_NE: Tensor, targets_N: Tensor) -> Softmax:
        """In fp32 or better, whatever the products are made in. The result is good until the next call."""
        hidden_NE = hidden_NE.detach().to(self.matrix_VE.dtype)
        logits_NV = self._buffer_NV[: len(targets_N)]
        torch.mm(hidden_NE, self.matrix_VE.T, out=logits_NV)
        exact = torch.promote_types(logits_NV.dtype, torch.float32)
        sums_N, dots_N, chosen_N = torch.empty((3, len(targets_N)), dtype=exact, device=hidden_NE.device)
        for rows in _blocks(logits_NV):
            shifted = logits_NV[rows].to(exact)  # the buffer itself, where that is exact already
            shifted.sub_(shifted.amax(-1, keepdim=True))
            if self.temperature != 1:
                shifted.div_(self.temperature)
            exps = shifted.exp()
            sums_N[rows] = exps.sum(-1)
            dots_N[rows] = (exps * shifted).sum(-1)
            chosen_N[rows] = shifted.gather(1, targets_N[rows, None])[:, 0]
            logits_NV[rows] = exps
        log_sums_N = sums_N.log()
        self._newest = Softmax(
            hidden_NE=hidden_NE,
            targets_N=targets_N,
            exps_NV=logits_NV,
            sums_N=sums_N,
            logprobs_N=chosen_N - log_sums_N,
            entropy_N=log_sums_N - dots_N / sums_N,
        )
        return self._newest

    def backward(self, by_logprob_N: Tensor, by_entropy_N: Tensor | None = None) -> Tensor:
        """[N, E] the gradient of the newest call's hidden states; the weight's is added to what it has.

        d logprob / d logit = [it is the target] - p; d entropy / d logit = -p (log p + entropy).
        """
        found, self._newest = self._newest, None
        assert found is not None, "forward comes first"
        grad_N = by_logprob_N / self.temperature
        if by_entropy_N is not None or found.exps_NV.dtype != found.sums_N.dtype:
            _to_gradient(found, grad_N, None if by_entropy_N is None else by_entropy_N / self.temperature)
            self._add_product(found.exps_NV, found.hidden_NE)
            return found.exps_NV @ self.matrix_VE
        share_N = grad_N / found.sums_N  # target and p apart: the buffer is not gone through again
        self._add_product(found.exps_NV, found.hidden_NE * -share_N[:, None])
        self._add_rows(found.targets_N, found.hidden_NE * grad_N[:, None])
        back_NE = (found.exps_NV @ self.matrix_VE).mul_(-share_N[:, None])
        return back_NE.addcmul_(grad_N[:, None], self.matrix_VE[found.targets_N])

    def _add_product(self, left_NV: Tensor, right_NE: Tensor) -> None:
        if not self.weight_VE.requires_grad:
            return
        gradient_VE = self._gradient()
        if gradient_VE.dtype == left_NV.dtype:
            gradient_VE.addmm_(left_NV.T, right_NE)
        else:
            gradient_VE += left_NV.T @ right_NE

    def _add_rows(self, index_N: Tensor, rows_NE: Tensor) -> None:
        if self.weight_VE.requires_grad:
            self._gradient().index_add_(0, index_N, rows_NE.to(self.weight_VE.dtype))

    def _gradient(self) -> Tensor:
        if self.weight_VE.grad is None:
            self.weight_VE.grad = torch.zeros_like(self.weight_VE)
        return self.weight_VE.grad


def _to_gradient(found: Softmax, grad_N: Tensor, entropy_grad_N: Tensor | None) -> None:
    """The exponentials become the gradient of the logits; at the target by its logprob, which is exacter."""
    at_target_N = grad_N * -found.logprobs_N.expm1()
    if entropy_grad_N is not None:
        log_N = found.logprobs_N
        at_target_N -= entropy_grad_N * log_N.exp() * (log_N + found.entropy_N)
    for rows in _blocks(found.exps_NV):
        probs = found.exps_NV[rows].to(found.sums_N.dtype) / found.sums_N[rows, None]
        if entropy_grad_N is None:
            gradient = probs * -grad_N[rows, None]
        else:
            factor = grad_N[rows] + entropy_grad_N[rows] * found.entropy_N[rows]
            entropies = _entropies(probs)
            gradient = entropy_grad_N[rows, None] * entropies - probs * factor[:, None]
        found.exps_NV[rows] = gradient.scatter_(1, found.targets_N[rows, None], at_target_N[rows, None])


def _entropies(probs_NV: Tensor) -> Tensor:
    """-p log p, 0 where p is 0."""
    untyped: Any = torch.special
    return cast(Tensor, untyped.entr(probs_NV))


def _blocks(values_NV: Tensor) -> Iterator[slice]:
    """Rows, a block after another."""
    num, width = values_NV.shape
    rows = max(1, _BLOCK.get(values_NV.device.type, 1 << 26) // width)
    return (slice(start, min(start + rows, num)) for start in range(0, num, rows))
