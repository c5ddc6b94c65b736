"""A whole model from an adapter folder, which is what a run with `lora` leaves behind."""

import json
from pathlib import Path
from typing import Any

from .adapters import merged_state
from .model import load_model, write_model
from .recipe_file import RecipeError


def merge_adapter(adapter: Path, folder: Path) -> None:
    """Write the base model into `folder`, the adapter added in. Raises `RecipeError` without the base."""
    import peft  # without types

    base = Path(json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"])
    if not (base / "config.json").is_file():
        raise RecipeError(
            f"{adapter} is an adapter for the model {base}, which is not there; "
            "call from the folder that the run was started in"
        )
    untyped: Any = peft
    model = load_model(base)
    untyped.PeftModel.from_pretrained(model, str(adapter))  # its layers gain the adapter in place
    write_model(model, merged_state(model), folder)
