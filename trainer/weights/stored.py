"""Weights as they lie on disk, before anything loads them. Imports without torch."""

import json
import struct
from pathlib import Path
from typing import Any, Literal

from ..recipe_file import RecipeError

Kind = Literal["model", "adapter", "checkpoint"]

_KINDS: dict[str, Kind] = {
    "config.json": "model",
    "adapter_config.json": "adapter",
    "manifest.json": "checkpoint",
}


def kind_of(folder: Path) -> Kind | None:
    """What a folder holds, by the file that each kind has and no other. None: none of them."""
    return next((kind for name, kind in _KINDS.items() if (folder / name).is_file()), None)


def read_settings(file: Path) -> dict[str, Any]:
    """What stands in a JSON file beside weights. Raises `RecipeError` for one that is damaged."""
    try:
        return dict[str, Any](json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise RecipeError(f"{file} cannot be read: {error}; bring back what was written there") from error


def shapes_in(file: Path) -> dict[str, list[int]]:
    """By the tensors of a safetensors file."""
    return {name: entry["shape"] for name, entry in _tensors(file)[0].items()}


def expect_whole(folder: Path) -> None:
    """Raise `RecipeError` for a model or an adapter with a damaged file, or without weights."""
    for name in _KINDS:
        if (folder / name).is_file():
            read_settings(folder / name)
    named = "adapter_model.safetensors" if kind_of(folder) == "adapter" else "*.safetensors"
    if not (files := sorted(folder.glob(named))):
        raise RecipeError(f"{folder} holds no weights; give a folder with {named}")
    for file in files:
        try:
            tensors, start = _tensors(file)
            end = start + max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
        except OSError as error:
            raise RecipeError(f"{file} cannot be read: {error.strerror}; see that you may read it") from error
        except (ValueError, LookupError, TypeError, AttributeError, struct.error):
            end = -1
        if file.stat().st_size != end:
            raise RecipeError(f"{file} is damaged: it is not as long as it says; bring back what was there")


def _tensors(file: Path) -> tuple[dict[str, dict[str, Any]], int]:
    """(entries of the header by name, where the data begins). A safetensors file is eight bytes of length, a
    header in JSON, and the tensors that it lists."""
    with file.open("rb") as opened:
        (length,) = struct.unpack("<Q", opened.read(8))
        header: dict[str, Any] = json.loads(opened.read(min(length, file.stat().st_size)))
    return {name: entry for name, entry in header.items() if name != "__metadata__"}, 8 + length
