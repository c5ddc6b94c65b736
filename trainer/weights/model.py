"""Loading a policy, and writing one as a folder in Hugging Face format."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from .._torch import read_model, to_device, write_config, write_tensors
from ..config import LearnerConfig

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

_COMPANIONS = (
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
)
"""What stands beside the weights and is not changed by training."""


def load_model(
    path: Path, dtype: Literal["float32", "bfloat16"] = "float32", device: str = "cpu"
) -> PreTrainedModel:
    """The causal language model in a folder. Code that comes with a model is never run."""
    if not (path / "config.json").is_file():
        raise ValueError(f"{path} has no config.json; give a model folder in Hugging Face format")
    return to_device(read_model(path, _DTYPES[dtype]), device)


def load_to_train(path: Path, config: LearnerConfig, device: str) -> PreTrainedModel:
    """As `load_model`, in the precision that a learner of this config wants."""
    return load_model(path, "float32" if config.lora is None else config.lora.base_dtype, device)


def write_model(model: PreTrainedModel, state: Mapping[str, Tensor], folder: Path) -> None:
    """Write `state` as a whole model, with the tokenizer and template of the folder it was loaded from."""
    folder.mkdir(parents=True, exist_ok=True)
    write_config(model, folder)
    write_tensors(state, folder / "model.safetensors")
    source = Path(model.name_or_path or folder)
    for name in _COMPANIONS:
        if (source / name).is_file() and source.resolve() != folder.resolve():
            shutil.copyfile(source / name, folder / name)
