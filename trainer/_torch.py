"""The few calls into torch, transformers and safetensors that have no types there, behind typed functions."""

import os
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
import transformers
from torch import Tensor, nn
from torch.utils import checkpoint as torch_checkpoint
from transformers import PreTrainedModel, masking_utils
from transformers.integrations import sdpa_attention
from transformers.modeling_layers import GradientCheckpointingLayer

from .ranks.launch import choose_device, default_threads


def use_processor(threads: int | None, *, deterministic: bool) -> None:
    """How this process computes: `threads` None is every core, or this rank's share of them."""
    untyped: Any = torch
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # or torch refuses products on a GPU
    untyped.set_num_threads(threads or default_threads())
    untyped.use_deterministic_algorithms(deterministic)


def own_device(wanted: str) -> str:
    """`choose_device` for what torch sees here."""
    untyped: Any = torch
    return choose_device(wanted, has_gpu=bool(untyped.cuda.is_available()))


def hidden_states(model: PreTrainedModel, ids_T: Tensor, positions_T: Tensor, layout: object) -> Tensor:
    """[T, hidden] the decoder's last state on a line of rows, which the attention keeps apart by `layout`.

    The mask is one that lets nothing through: an attention that ignored the layout would fail on it.
    """
    untyped: Any = model
    found = untyped.get_decoder()(
        input_ids=ids_T[None],
        position_ids=positions_T[None],
        attention_mask=torch.empty((1, 1, 0, 0), dtype=torch.bool, device=ids_T.device),
        use_cache=False,
        layout=layout,
    )
    return cast(Tensor, found.last_hidden_state)[0]


def set_attention(model: PreTrainedModel, name: str, function: Callable[..., tuple[Tensor, None]]) -> bool:
    """Exchange a model's attention; False where it cannot be. Masks are made as for `plain_attention`."""
    untyped: Any = transformers
    masks: Any = masking_utils
    untyped.AttentionInterface.register(name, function)
    untyped.AttentionMaskInterface.register(name, masks.sdpa_mask)
    changed: Any = model
    if not changed._can_set_attn_implementation():
        return False
    changed.set_attn_implementation(name)
    return bool(changed.config._attn_implementation == name)


def plain_attention(*arguments: Any, **kwargs: Any) -> tuple[Tensor, None]:
    """transformers' own, by torch's `scaled_dot_product_attention`."""
    untyped: Any = sdpa_attention
    return cast(tuple[Tensor, None], untyped.sdpa_attention_forward(*arguments, **kwargs))


def split(line: Tensor, lengths: Sequence[int]) -> tuple[Tensor, ...]:
    """[1, heads, T, head_dim] into pieces of so many tokens."""
    untyped: Any = line
    return cast(tuple[Tensor, ...], untyped.split(lengths, dim=2))


def checkpoint_layers(model: PreTrainedModel) -> None:
    """Keep only what enters each layer for the backward pass, which then computes the layer again.

    transformers looks whether a layer is in training mode; what is inside stays as it is, without dropout.
    """
    untyped: Any = model
    layers: list[Any] = [m for m in untyped.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not layers:
        raise ValueError(
            f"{type(model).__name__} has no layers that transformers can checkpoint; leave it off"
        )
    again: Any = torch_checkpoint
    for layer in layers:
        layer.gradient_checkpointing = layer.training = True
        layer._gradient_checkpointing_func = partial(
            again.checkpoint, use_reentrant=False, preserve_rng_state=False
        )


def output_head(model: PreTrainedModel) -> nn.Module:
    """The layer from hidden states to logits."""
    untyped: Any = model
    return cast(nn.Module, untyped.get_output_embeddings())


def modules(model: PreTrainedModel) -> list[tuple[str, Any]]:
    """Every module by name."""
    untyped: Any = model
    return list(untyped.named_modules())


def to_device(model: PreTrainedModel, device: str) -> PreTrainedModel:
    """Move a model, in place, and switch dropout off: the policy that is trained is the one that sampled."""
    untyped: Any = model
    return cast(PreTrainedModel, untyped.to(device).eval())


def device_name(device: torch.device) -> str:
    """Of a CUDA device, such as "NVIDIA H100 80GB HBM3"."""
    untyped: Any = torch
    return cast(str, untyped.cuda.get_device_name(device))


def backward(values: Tensor, gradient: Tensor | None = None) -> None:
    """Add the gradient of a scalar to its leaves; of other values, with what came back for them."""
    untyped: Any = values
    untyped.backward(gradient)


def carrying(values: Tensor, gradient: Tensor) -> Tensor:
    """A scalar from which `backward` goes on with a gradient of the values that is known already."""
    if not values.requires_grad:  # a model of which nothing is trained, but what made the gradient
        values = values.detach().requires_grad_()
    return torch.dot(values.flatten(), gradient.flatten())


def gradients(loss: Tensor, inputs: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
    """Of a scalar; None for what it does not depend on."""
    untyped: Any = torch
    return cast(tuple[Tensor | None, ...], untyped.autograd.grad(loss, inputs, allow_unused=True))


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnStates:
    """What a model says of one sequence by its own way."""

    hidden_TE: Tensor
    """[T, hidden] the decoder's last state."""
    logits_TV: Tensor


def own_states(model: PreTrainedModel, ids_T: Tensor) -> OwnStates:
    untyped: Any = model
    found = untyped.get_decoder()(input_ids=ids_T[None], use_cache=False).last_hidden_state
    logits = untyped(input_ids=ids_T[None], use_cache=False).logits
    return OwnStates(hidden_TE=found[0], logits_TV=logits[0])


def step(optimizer: torch.optim.Optimizer) -> None:
    untyped: Any = optimizer
    untyped.step()


def recomputed(function: Callable[..., tuple[Tensor, Tensor]], *arguments: Any) -> tuple[Tensor, Tensor]:
    """Call `function` without keeping what its backward pass needs: it is called again then."""
    untyped: Any = torch_checkpoint
    found = untyped.checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)
    return cast(tuple[Tensor, Tensor], found)


@contextmanager
def seeded(seed: int) -> Generator[None, None, None]:
    """Draw from a generator of one's own, and leave the global one as it was."""
    untyped: Any = torch
    with untyped.random.fork_rng():
        untyped.manual_seed(seed)
        yield


def to_list(values_N: Tensor) -> list[float]:
    untyped: Any = values_N
    return cast(list[float], untyped.tolist())


@contextmanager
def plain_errors() -> Generator[None, None, None]:
    """safetensors has a class of its own for a full disk and a damaged file: raise `OSError` instead."""
    try:
        yield
    except safetensors.SafetensorError as error:
        raise OSError(str(error)) from error


def read_model(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """Only what is on disk, and no code from there. Raises `OSError` for a damaged file."""
    untyped: Any = transformers
    untyped.utils.logging.disable_progress_bar()
    with plain_errors():
        model = untyped.AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            attn_implementation="sdpa",
            trust_remote_code=False,
            local_files_only=True,
            use_safetensors=True,
        )
    return cast(PreTrainedModel, model)


def write_config(model: PreTrainedModel, folder: Path) -> None:
    untyped: Any = model
    untyped.config.save_pretrained(folder)


def read_tensors(path: Path) -> dict[str, Tensor]:
    untyped: Any = safetensors.torch
    return cast(dict[str, Tensor], untyped.load_file(path))


def write_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    untyped: Any = safetensors.torch
    flat = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with plain_errors():
        untyped.save_file(flat, path, metadata={"format": "pt"})


def random_state() -> Tensor:
    """[bytes] uint8, of torch's generator for the CPU."""
    untyped: Any = torch
    return cast(Tensor, untyped.random.get_rng_state())


def set_random_state(state: Tensor) -> None:
    untyped: Any = torch
    untyped.random.set_rng_state(state)
