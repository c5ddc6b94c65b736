"""`palaestra export`: what was trained, as files that others load."""

from pathlib import Path
from typing import Annotated

import typer

from ..trainer.folder import make_whole
from ..trainer.recipe_file import RecipeError
from ..trainer.weights.lineage import Origin, find_origin, write_whole_model
from .console import open_console, print_json
from .options import Json


def export(
    source: Annotated[Path, typer.Argument(help="A run, one of its checkpoints, or an adapter.")],
    folder: Annotated[Path, typer.Argument(help="Where to write; must not be there yet.")],
    adapter: Annotated[
        bool, typer.Option("--adapter", help="The adapter alone, in peft's format, not merged in.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write a whole model in Hugging Face format, an adapter merged in, with its tokenizer."""
    if folder.exists():
        raise RecipeError(f"FOLDER: {folder} is there already; name another one, or remove it")
    origin = find_origin(source, "SOURCE")
    make_whole(folder, lambda partial: (_write_adapter if adapter else write_whole_model)(origin, partial))
    what = "adapter" if adapter else "model"
    if as_json:
        print_json({"folder": str(folder), "what": what, "from": origin.record()})
    else:
        open_console().print(f"{folder}: the {what} of {origin.folder}", highlight=False)


def _write_adapter(origin: Origin, folder: Path) -> None:
    from ..trainer.weights.merge import checkpoint_adapter, copy_adapter

    if origin.kind == "model":
        raise RecipeError(f"--adapter: {origin.folder} is a whole model; leave --adapter out")
    (copy_adapter if origin.kind == "adapter" else checkpoint_adapter)(origin.folder, folder)
