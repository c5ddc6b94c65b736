"""Where weights come from: a model, an adapter, another run, or a checkpoint of one. Imports without torch.

    runs/sft ──start──> runs/rl ──start──> runs/rl2        each run's start/lineage.json names its parents

A run that starts so has a whole model of its own in `start/`, an adapter merged in. So a chain changes rank,
or goes from LoRA to every parameter and back, and the parent may be deleted.
"""

import contextlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from ..inputs import fingerprint
from ..recipe_file import RecipeError

LINEAGE = "lineage.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Weights on disk."""

    kind: Literal["model", "adapter", "checkpoint"]
    folder: Path
    run: Path | None = None
    """The run that made them, where they lie in the folder of one."""

    def record(self) -> dict[str, Any]:
        """What a child remembers of it: where it was, its bits, and its own parent."""
        told = None if self.run is None else read_lineage(self.run)
        return {
            "kind": self.kind,
            "folder": str(self.folder),
            "run": None if self.run is None else self.run.name,
            "sha256": fingerprint(self.folder),
            "parent": told,
        }


def find_origin(path: Path, field: str = "model.start") -> Origin:
    """The weights that a path means. Of a run: its policy, or its last good checkpoint before there is one.

    Raises `RecipeError`, which names `field`, where there are none.
    """
    if (kind := kind_of(path)) is not None:
        return Origin(kind=kind, folder=path, run=_run_of(path))
    if (path / "recipe.yaml").is_file():
        if (path / "policy").is_dir():
            return find_origin(path / "policy", field)
        if (step := _last_good(path)) is not None:
            return Origin(kind="checkpoint", folder=path / "checkpoints" / f"step-{step:06d}", run=path)
        raise RecipeError(f"{field}: the run {path} has neither a policy nor a checkpoint yet")
    raise RecipeError(
        f"{field}: {path} is no run, checkpoint, model or adapter; give a folder such as runs/NAME, "
        "runs/NAME/checkpoints/step-000020 or runs/NAME/policy"
    )


def kind_of(folder: Path) -> Literal["model", "adapter", "checkpoint"] | None:
    """What a folder holds, by the file that each kind has and no other. None: none of them."""
    return next((kind for name, kind in _KINDS.items() if (folder / name).is_file()), None)


def base_of(origin: Origin) -> Path | None:
    """The model folder whose layers the weights have; None where it is not there any more."""
    if origin.kind == "model":
        return origin.folder
    file, name = _BASES[origin.kind]
    told = json.loads((origin.folder / file).read_text(encoding="utf-8")).get(name)
    return Path(told) if told and (Path(told) / "config.json").is_file() else None


_BASES = {
    "adapter": ("adapter_config.json", "base_model_name_or_path"),
    "checkpoint": ("state.json", "base"),
}
_KINDS: dict[str, Literal["model", "adapter", "checkpoint"]] = {
    "config.json": "model",
    "adapter_config.json": "adapter",
    "manifest.json": "checkpoint",
}


def _run_of(path: Path) -> Path | None:
    above = list(path.absolute().parents)[:2]
    return next((folder for folder in above if (folder / "recipe.yaml").is_file()), None)


def _last_good(run: Path) -> int | None:
    from .checkpoint import Checkpoints  # torch

    return Checkpoints(run / "checkpoints").latest_good()


def write_whole_model(origin: Origin, folder: Path) -> None:
    """Write the model that the weights make; what is whole already is linked, or copied to another disk."""
    if origin.kind == "model":
        shutil.copytree(origin.folder, folder, copy_function=_link, dirs_exist_ok=True)
        return
    from .merge import merge_adapter, merge_checkpoint

    (merge_adapter if origin.kind == "adapter" else merge_checkpoint)(origin.folder, folder)


def write_start(origin: Origin, folder: Path) -> None:
    """As `write_whole_model`, with the record of where it comes from."""
    write_whole_model(origin, folder)
    with contextlib.suppress(FileNotFoundError):
        (folder / LINEAGE).unlink()  # the parent's own, perhaps by a link
    (folder / LINEAGE).write_text(json.dumps(origin.record(), indent=1), encoding="utf-8")


def read_lineage(run: Path) -> dict[str, Any] | None:
    """What a run started from (`Origin.record`); None: from a model of the recipe."""
    path = run / "start" / LINEAGE
    if not path.is_file():
        return None
    return cast(dict[str, Any], json.loads(path.read_text(encoding="utf-8")))


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without hard links
        shutil.copyfile(source, target)
