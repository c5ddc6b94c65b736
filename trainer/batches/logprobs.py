"""Log-probabilities of the trained tokens, and the way back from their loss.

The head runs on the positions that predict a trained token, at most `chunk` of them at a time; their logits
are gone before the next ones are made, forward and backward, so that the logits of a batch never exist.
N: trained tokens of a part, V: vocabulary, E: hidden size, T: tokens of a micro-batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .._torch import backward, gradients, recomputed
from .packing import Trained
from .softmax import SoftmaxHead


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenLogprobs:
    """[N] each, in fp32 or better."""

    logprobs_N: Tensor
    entropy_N: Tensor
    """Of the whole distribution, nats."""


PartLoss = Callable[[Trained, TokenLogprobs], Tensor]
"""The weighted loss of a part, a scalar. Both tensors of `TokenLogprobs` take a gradient."""


def no_loss(part: Trained, found: TokenLogprobs) -> Tensor:
    """0, with a gradient of 0, whatever was found: -inf times 0 would be no number."""
    return 0.0 * found.logprobs_N.nan_to_num().sum()


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """The layer from hidden states to logits, and how it is run."""

    module: nn.Module
    temperature: float
    """Of the distribution: logits / temperature."""
    chunk: int
    """Positions that go through it at once; each costs a whole vocabulary of logits."""
    dtype: torch.dtype | None = None
    """Of the products; None: that of the hidden states."""

    @property
    def exact(self) -> torch.dtype:
        """Of log-probabilities and entropies."""
        made_in = self.dtype or next(self.module.parameters()).dtype
        return torch.promote_types(made_in, torch.float32)

    def logprobs(self, hidden_TE: Tensor, parts: Sequence[Trained]) -> list[TokenLogprobs]:
        """[parts] the model's word on each trained token, without a gradient."""
        with torch.no_grad():
            plain = self._plain(hidden_TE, parts)
            if plain is None:
                return [self.by_module(hidden_TE[part.source_N], part) for part in parts]
            return [self._by_matrix(plain, hidden_TE[part.source_N], part) for part in parts]

    def gradient(self, hidden_TE: Tensor, parts: Sequence[Trained], loss: PartLoss) -> Tensor:
        """[T, E] of the hidden states, for the sum of all parts' losses; the head's weights get their own.

        A part that fits into a chunk needs its logits once. A larger one needs them twice: its loss is known
        only when all of its log-probabilities are.
        """
        plain = self._plain(hidden_TE, parts)
        gradient_TE = torch.zeros_like(hidden_TE)
        for part in parts:
            hidden_NE = hidden_TE.detach()[part.source_N]
            if plain is None:
                found_NE = self._back_by_module(hidden_NE, part, loss)
            else:
                found_NE = self._back_by_matrix(plain, hidden_NE, part, loss)
            gradient_TE.index_add_(0, part.source_N, found_NE.to(gradient_TE.dtype))
        return gradient_TE

    def _plain(self, hidden_TE: Tensor, parts: Sequence[Trained]) -> SoftmaxHead | None:
        """None for a module that is more than a matrix of its own: with a bias, an adapter, in shards."""
        bias: Tensor | None = getattr(self.module, "bias", None)
        if type(self.module) is not nn.Linear or bias is not None:
            return None
        weight_VE = self.module.weight
        if type(weight_VE) is not nn.Parameter:
            return None
        rows = min(self.chunk, max(len(part.where) for part in parts))
        return SoftmaxHead.of(weight_VE, self.dtype or hidden_TE.dtype, self.temperature, rows)

    def _by_matrix(self, plain: SoftmaxHead, hidden_NE: Tensor, part: Trained) -> TokenLogprobs:
        pieces: list[TokenLogprobs] = []
        for cut in self._cuts(part):
            made = plain.forward(hidden_NE[cut], part.targets_N[cut])
            pieces.append(TokenLogprobs(logprobs_N=made.logprobs_N, entropy_N=made.entropy_N))
        return _joined(pieces)

    def _back_by_matrix(self, plain: SoftmaxHead, hidden_NE: Tensor, part: Trained, loss: PartLoss) -> Tensor:
        """[N, E] the gradient of the hidden states; the matrix gets its own where it stands."""
        made = self._by_matrix(plain, hidden_NE, part)
        found = TokenLogprobs(
            logprobs_N=made.logprobs_N.detach().requires_grad_(),
            entropy_N=made.entropy_N.detach().requires_grad_(),
        )
        by_logprob_N, by_entropy_N = gradients(loss(part, found), (found.logprobs_N, found.entropy_N))
        cuts = self._cuts(part)
        back: list[Tensor] = []
        for cut in cuts:
            if len(cuts) > 1:
                plain.forward(hidden_NE[cut], part.targets_N[cut])
            grad_N = torch.zeros_like(found.logprobs_N) if by_logprob_N is None else by_logprob_N
            by_entropy = None if by_entropy_N is None else by_entropy_N[cut]
            back.append(plain.backward(grad_N[cut], by_entropy))
        return torch.cat(back)

    def by_module(self, hidden_NE: Tensor, part: Trained) -> TokenLogprobs:
        """By what torch knows of gradients."""
        pieces: list[TokenLogprobs] = []
        for cut in self._cuts(part):
            arguments = (self.module, hidden_NE[cut], part.targets_N[cut], self.temperature, self.dtype)
            is_kept = len(part.where) <= self.chunk or not torch.is_grad_enabled()
            logprobs_N, entropy_N = _run(*arguments) if is_kept else recomputed(_run, *arguments)
            pieces.append(TokenLogprobs(logprobs_N=logprobs_N, entropy_N=entropy_N))
        return _joined(pieces)

    def _back_by_module(self, hidden_NE: Tensor, part: Trained, loss: PartLoss) -> Tensor:
        """[N, E] the gradient of the hidden states; the module's parameters get theirs."""
        hidden_NE.requires_grad_()
        backward(loss(part, self.by_module(hidden_NE, part)))
        return torch.zeros_like(hidden_NE) if hidden_NE.grad is None else hidden_NE.grad

    def _cuts(self, part: Trained) -> list[slice]:
        num = len(part.where)
        return [slice(start, min(start + self.chunk, num)) for start in range(0, num, self.chunk)]


def _run(
    module: nn.Module, hidden_NE: Tensor, targets_N: Tensor, temperature: float, dtype: torch.dtype | None
) -> tuple[Tensor, Tensor]:
    with torch.autocast(hidden_NE.device.type, dtype=dtype, enabled=dtype is not None):
        logits_NV: Tensor = module(hidden_NE)
    exact = torch.promote_types(logits_NV.dtype, torch.float32)
    logprobs_NV = (logits_NV.to(exact) / temperature).log_softmax(-1)
    entropy_N = -(logprobs_NV.exp() * logprobs_NV).sum(-1)
    return logprobs_NV.gather(1, targets_N[:, None])[:, 0], entropy_N


def _joined(pieces: Sequence[TokenLogprobs]) -> TokenLogprobs:
    if len(pieces) == 1:
        return pieces[0]
    return TokenLogprobs(
        logprobs_N=torch.cat([piece.logprobs_N for piece in pieces]),
        entropy_N=torch.cat([piece.entropy_N for piece in pieces]),
    )
