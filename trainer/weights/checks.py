"""What a model must be, so that the trainer's way of computing is its own: tried out on the model itself."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from .._torch import OwnStates, hidden_states, output_head, own_states
from ..batches.attention import Layout, separate_rows

_SPANS = (((0, 6),), ((0, 3), (6, 8)), ((8, 11),))
"""Three rows, of which the second begins like the first."""
_LINE = (0, 1, 2, 3, 4, 5, 6, 7, 7, 6, 5)
_ROWS = ((0, 1, 2, 3, 4, 5), (0, 1, 2, 6, 7), (7, 6, 5))
_OWN = (slice(0, 6), slice(6, 8), slice(8, 11))
_OTHERS = ((0, 1, 2, 3, 4, 5, 6, 7, 5, 7, 6), (0, 1, 2, 5, 3, 4, 6, 7, 7, 6, 5))
"""The line with other tokens in the third row; and with others where the first goes on alone."""
_UNTOUCHED = (slice(0, 8), slice(6, 11))


def expect_full_precision(parameters: Mapping[str, Tensor]) -> None:
    """Raise `ValueError` for one that is to be trained and is held in half precision."""
    low = [name for name, p in parameters.items() if p.dtype in (torch.bfloat16, torch.float16)]
    if low:
        raise ValueError(
            f"{low[0]} is to be trained in half precision, which loses small updates; load the model in "
            'float32 and set LearnerConfig.dtype to "bfloat16" to compute in it'
        )


def prepare_model(model: PreTrainedModel) -> None:
    """Teach a model to keep packed rows apart, in place; refuse one that packing or the head would change.

    Raises `ValueError` with what it does otherwise.
    """
    with torch.no_grad():
        own = [own_states(model, _ids(model, row)) for row in _ROWS]  # by the attention that it came with
        _check_head(model, own[0])
        separate_rows(model)
        _check_rows(model, [states.hidden_TE for states in own])


def _check_head(model: PreTrainedModel, own: OwnStates) -> None:
    """No logits that are more than the head on the decoder's last state: soft caps, scales."""
    ours: Tensor = output_head(model)(own.hidden_TE)
    gap = float((ours - own.logits_TV).abs().max())
    if gap > 1e-3:
        kind = type(model).__name__
        raise ValueError(
            f"{kind} changes its logits after the head (by up to {gap:.3g}), which the trainer would leave "
            "out; use a model without logit soft caps or scales"
        )


def _check_rows(model: PreTrainedModel, alone: Sequence[Tensor]) -> None:
    """Each row in a line is what it is alone, and nothing that happens in its neighbours reaches it."""
    kind = type(model).__name__
    packed = _packed(model, _LINE)
    size = float(packed.abs().max())
    exact = torch.finfo(packed.dtype).eps
    for other, part in zip(_OTHERS, _UNTOUCHED, strict=True):
        gap = float((_packed(model, other) - packed)[part].abs().max())
        if not gap <= 4 * exact * size:
            raise ValueError(
                f"{kind} lets packed rows see each other (hidden states move by {gap:.3g} of {size:.3g}); "
                "use a model in which tokens meet in its attention and nowhere else"
            )
    bound = max(exact, torch.finfo(torch.float32).eps) ** 0.5 * size
    for own, part in zip(alone, _OWN, strict=True):
        gap = float((own[-(part.stop - part.start) :] - packed[part]).abs().max())
        if not gap <= bound:
            raise ValueError(
                f"{kind} computes other hidden states for a packed row than for the row alone (by {gap:.3g} "
                f"of {size:.3g}); its attention does more than the trainer knows of"
            )


def _packed(model: PreTrainedModel, line: tuple[int, ...]) -> Tensor:
    layout = Layout(spans=_SPANS)
    return hidden_states(
        model, _ids(model, line), torch.tensor(layout.positions(), device=model.device), layout
    )


def _ids(model: PreTrainedModel, ids: tuple[int, ...]) -> Tensor:
    return torch.tensor(ids, device=model.device)
