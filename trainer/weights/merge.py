"""A whole model from what a run leaves behind: an adapter folder, or a checkpoint."""

import json
import shutil
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedModel

from .._torch import read_tensors
from ..config import LoraConfig
from ..recipe_file import RecipeError
from .adapters import add_adapter, expect_plain, merged_state, put_in, read_adapter, save_adapter
from .checkpoint import verify_checkpoint
from .fit import BASE, base_hashes, other_base, write_base
from .model import load_model, write_model
from .stored import read_settings


def merge_adapter(adapter: Path, folder: Path) -> None:
    """Write the base model into `folder`, the adapter added in.

    Raises `RecipeError` without the base, and for an adapter that is damaged, of another kind or of another
    base.
    """
    settings, tensors = read_adapter(adapter)
    expect_plain(settings, tensors, adapter)
    known = read_settings(adapter / BASE) if (adapter / BASE).is_file() else {}
    base = settings.get("base_model_name_or_path")
    if not known and not (isinstance(base, str) and (Path(base) / "config.json").is_file()):
        raise RecipeError(
            f"{adapter}: base_model_name_or_path in its adapter_config.json is {base!r}, which is no model "
            "folder here; set it to the folder of the model that the adapter was trained on"
        )
    model = _base(adapter, str(base), known.get("sha256", {}), known.get("dtype", "float32"))
    put_in(model, tensors, adapter)
    write_model(model, merged_state(model, dict(model.named_parameters())), folder)


def merge_checkpoint(checkpoint: Path, folder: Path) -> None:
    """Write the model that a checkpoint has trained into `folder`.

    Raises `CorruptCheckpoint`, and `RecipeError` without the model that its run started from.
    """
    model, _ = _trained(checkpoint)
    write_model(model, merged_state(model, dict(model.named_parameters())), folder)


def checkpoint_adapter(checkpoint: Path, folder: Path) -> None:
    """Write a checkpoint's adapter into `folder`, as peft and vLLM read it. Raises as `merge_checkpoint`."""
    model, adapted = _trained(checkpoint)
    if adapted is None:
        raise RecipeError(f"{checkpoint} has trained every parameter: there is no adapter")
    tensors = {name: p.detach() for name, p in model.named_parameters() if ".lora_" in name}
    save_adapter(adapted, tensors, folder)
    write_base(model.name_or_path, base_hashes(model.name_or_path), str(model.dtype), folder)


def _trained(checkpoint: Path) -> tuple[PreTrainedModel, Any]:
    """(the model, peft's model where there is an adapter)"""
    verify_checkpoint(checkpoint)
    state: dict[str, Any] = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
    if "base" not in state:
        raise RecipeError(
            f"{checkpoint} is older than checkpoints that name their model; resume its run to the next one"
        )
    lora = state["lora"]
    dtype: Any = "float32" if lora is None else lora.get("base_dtype", "float32")
    model = _base(checkpoint, state["base"], state.get("base_sha256", {}), dtype)
    adapted = None if lora is None else add_adapter(model, _lora_config(lora), seed=0)
    parameters = dict(model.named_parameters())
    for name, weight in read_tensors(checkpoint / "weights.safetensors").items():
        parameters[name].data.copy_(weight)
    return model, adapted


def _lora_config(stored: dict[str, Any]) -> LoraConfig:
    targets: Any = stored["targets"]
    settings: dict[str, Any] = {**stored, "targets": targets if isinstance(targets, str) else tuple(targets)}
    return LoraConfig(**settings)


def _base(
    trained: Path, name: str, sha256: dict[str, str], dtype: Literal["float32", "bfloat16"]
) -> PreTrainedModel:
    """What was trained on, if it still is that, as it was held in memory."""
    base = Path(name)
    if not (base / "config.json").is_file():
        raise RecipeError(
            f"{trained} was trained on the model {base}, which is not there; "
            "call from the folder that the run was started in"
        )
    if odd := other_base(base, sha256):
        raise RecipeError(
            f"{trained} was trained on another model than the one in {base} now: they differ in {odd}; "
            "put the old one back"
        )
    return load_model(base, dtype)


def copy_adapter(adapter: Path, folder: Path) -> None:
    """Copy an adapter's files. Raises `RecipeError` where they are damaged."""
    read_adapter(adapter)
    for name in ("adapter_config.json", "adapter_model.safetensors", BASE):
        if name != BASE or (adapter / name).is_file():
            shutil.copyfile(adapter / name, folder / name)
