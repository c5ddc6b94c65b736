"""The few calls into torch, transformers and safetensors that have no types there, behind typed functions."""

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
import transformers
from torch import Tensor, nn
from torch.utils import checkpoint as torch_checkpoint
from transformers import PreTrainedModel

from .launch import default_threads


def use_processor(threads: int | None, *, deterministic: bool) -> None:
    """How this process computes: `threads` None is every core, or this rank's share of them."""
    untyped: Any = torch
    untyped.set_num_threads(threads or default_threads())
    untyped.use_deterministic_algorithms(deterministic)


def hidden_states(model: PreTrainedModel, ids_BT: Tensor) -> Tensor:
    """[B, T, hidden] the decoder's last state. Causal; positions count from 0 in each line."""
    untyped: Any = model
    return cast(Tensor, untyped.get_decoder()(input_ids=ids_BT, use_cache=False).last_hidden_state)


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


def backward(loss: Tensor) -> None:
    """Add the gradient of a scalar to its leaves."""
    untyped: Any = loss
    untyped.backward()


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


def read_model(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """Only what is on disk, and no code from there."""
    untyped: Any = transformers
    untyped.utils.logging.disable_progress_bar()
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


@contextmanager
def plain_errors() -> Generator[None, None, None]:
    """safetensors has a class of its own for a full disk: raise `OSError`, as everybody else does."""
    try:
        yield
    except safetensors.SafetensorError as error:
        raise OSError(str(error)) from error


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
