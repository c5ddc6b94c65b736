"""The head: exact against torch's own gradients, and never the logits of a whole batch."""

from typing import Any

import pytest
import torch
from tiny_models import manual_seed
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from trainer_builders import VOCAB, make_learner, make_row, random_rows

from palaestra.trainer.batches.logprobs import Head, TokenLogprobs
from palaestra.trainer.batches.packing import Trained
from palaestra.trainer.batches.rows import make_batch
from palaestra.trainer.batches.softmax import Softmax, SoftmaxHead
from palaestra.trainer.config import LearnerConfig, usual_chunk

T, E = 30, 8


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The largest tensor that any operation made."""

    numel: int

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        found: Any = func(*args, **(kwargs or {}))
        self.numel = max(
            [self.numel, *(leaf.numel() for leaf in tree_leaves(found) if isinstance(leaf, Tensor))]
        )
        return found


def largest_of_a_step(**config: Any) -> int:
    learner = make_learner(LearnerConfig(**config))
    batch = make_batch(random_rows(12))
    make: Any = Largest
    watch = make()
    watch.numel = 0
    with watch:
        learner.forward_backward(batch)
    return int(watch.numel)


def test_the_logits_of_a_batch_never_exist() -> None:
    num = sum(sum(row.tokens.mask) for row in random_rows(12))
    few = largest_of_a_step(logit_chunk=4, micro_batch_tokens=24)
    # the head's matrix and its gradient are as large as 16 positions' logits; nothing is ever larger
    assert few <= 16 * VOCAB < num * VOCAB / 4
    assert largest_of_a_step(logit_chunk=100_000, micro_batch_tokens=100_000) >= num * VOCAB


def parts_of(*sizes: int) -> list[Trained]:
    manual_seed(1)
    found: list[Trained] = []
    for row, size in enumerate(sizes):
        where = tuple((row, at) for at in range(size))
        source, targets = torch.randint(0, T, (size,)), torch.randint(0, VOCAB, (size,))
        found.append(Trained(source_N=source, targets_N=targets, where=where))
    return found


def bent_loss(part: Trained, found: TokenLogprobs) -> Tensor:
    """Takes a row as a whole, and its entropy as well."""
    return found.logprobs_N.mean().exp() * (found.logprobs_N**2).sum() + 0.3 * found.entropy_N.square().sum()


def plain_loss(part: Trained, found: TokenLogprobs) -> Tensor:
    return (found.logprobs_N * torch.arange(1.0, len(part.where) + 1)).sum()


def gradients_of(module: Any, hidden: Tensor, loss: Any, chunk: int, temperature: float) -> list[Tensor]:
    module.zero_grad()
    hidden.grad = None
    head = Head(module=module, temperature=temperature, chunk=chunk)
    hidden.backward(head.gradient(hidden, parts_of(5, 11, 3), loss))  # type: ignore[no-untyped-call]
    found = [hidden.grad, *(parameter.grad for parameter in module.parameters())]
    return [gradient.clone() for gradient in found if gradient is not None]


def expected_gradients(module: Any, hidden: Tensor, loss: Any, temperature: float) -> list[Tensor]:
    """By torch, from all logits."""
    total = torch.zeros((), dtype=torch.float64)
    for part in parts_of(5, 11, 3):
        logprobs = (module(hidden[part.source_N]) / temperature).log_softmax(-1)
        chosen = logprobs.gather(1, part.targets_N[:, None])[:, 0]
        entropy = -(logprobs.exp() * logprobs).sum(-1)
        total = total + loss(part, TokenLogprobs(logprobs_N=chosen, entropy_N=entropy))
    return list(torch.autograd.grad(total, [hidden, *module.parameters()]))


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("chunk", [1, 4, 100])
@pytest.mark.parametrize("loss", [plain_loss, bent_loss])
@pytest.mark.parametrize("bias", [False, True])
def test_the_gradient_is_that_of_the_logits(temperature: float, chunk: int, loss: Any, bias: bool) -> None:
    manual_seed(0)
    module = nn.Linear(E, VOCAB, bias=bias, dtype=torch.float64)
    hidden = torch.randn((T, E), dtype=torch.float64, requires_grad=True)
    expected = expected_gradients(module, hidden, loss, temperature)
    found = gradients_of(module, hidden, loss, chunk, temperature)
    for mine, theirs in zip(found, expected, strict=True):
        assert float((mine - theirs).abs().max() / theirs.abs().max()) <= 1e-12


def test_a_frozen_head_passes_its_gradient_on_and_keeps_none() -> None:
    module = nn.Linear(E, VOCAB, bias=False, dtype=torch.float64).requires_grad_(False)
    hidden = torch.randn((T, E), dtype=torch.float64, requires_grad=True)
    (found,) = gradients_of(module, hidden, plain_loss, 4, 1.0)
    assert float(found.abs().max()) > 0 and module.weight.grad is None


def test_products_in_half_precision_stay_near_the_exact_ones() -> None:
    manual_seed(0)
    module = nn.Linear(E, VOCAB, bias=False)
    hidden = torch.randn((T, E), requires_grad=True)
    exact = gradients_of(module, hidden, bent_loss, 4, 1.0)
    module.zero_grad()
    hidden.grad = None
    head = Head(module=module, temperature=1.0, chunk=4, dtype=torch.bfloat16)
    found = head.gradient(hidden, parts_of(5, 11, 3), bent_loss)
    assert module.weight.grad is not None
    for mine, theirs in zip((found, module.weight.grad), exact, strict=True):
        assert mine.dtype == torch.float32
        assert float((mine - theirs).square().sum() / theirs.square().sum()) < 0.03**2


@pytest.mark.parametrize(("level", "times"), [("token", 1), ("turn", 2), ("episode", 2)])
def test_a_long_row_has_its_logits_twice_only_where_its_loss_looks_at_all_of_it(
    level: str, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = make_batch([make_row(range(20), [False] + [True] * 19)])
    seen: list[int] = []
    forward = SoftmaxHead.forward

    def counted(head: SoftmaxHead, hidden_NE: Tensor, targets_N: Tensor) -> Softmax:
        seen.append(len(targets_N))
        return forward(head, hidden_NE, targets_N)

    monkeypatch.setattr(SoftmaxHead, "forward", counted)
    make_learner(LearnerConfig(logit_chunk=4)).forward_backward(batch, level=level)
    assert sum(seen) == times * 19 and max(seen) == 4


class Transfers(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """How often values go to the device or come from it, as far as an operation tells."""

    number: int

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.number += any(name in str(func) for name in ("lift_fresh", "_local_scalar_dense"))
        return func(*args, **(kwargs or {}))


def test_a_batch_goes_to_the_device_once_however_small_its_parts_are() -> None:
    numbers: list[int] = []
    for chunk in (2, 1000):
        learner = make_learner(LearnerConfig(logit_chunk=chunk))
        make: Any = Transfers
        transfers = make()
        transfers.number = 0
        with transfers:
            learner.forward_backward(make_batch(random_rows(12)))
        numbers.append(transfers.number)
    assert numbers[0] == numbers[1] > 0


def test_a_chunk_is_as_much_as_a_quarter_of_a_gigabyte_holds() -> None:
    assert usual_chunk(151_936) == 441
    assert usual_chunk(1 << 40) == 1
