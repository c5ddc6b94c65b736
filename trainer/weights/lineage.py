"""Where weights come from: a model, an adapter, another run, or a checkpoint of one. Imports without torch.

    runs/sft ──start──> runs/rl ──start──> runs/rl2        each run's start/lineage.json names its parents

A run that starts so has a whole model of its own in `start/`, an adapter merged in. So a chain changes rank,
or goes from LoRA to every parameter and back, and the parent may be deleted.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ..inputs import fingerprint
from ..recipe_file import RecipeError
from .stored import Kind, expect_whole, kind_of, read_settings

LINEAGE = "lineage.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Weights on disk."""

    kind: Kind
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
    """The weights that a path means. Of a run: its policy, or before there is one the last that it kept.

    Raises `RecipeError`, which names `field`, where there are none.
    """
    if (kind := kind_of(path)) is not None:
        return Origin(kind=kind, folder=path, run=_run_of(path))
    if (path / "recipe.yaml").is_file():
        if (found := _last_of(path)) is not None:
            return found
        raise RecipeError(f"{field}: the run {path} has neither a policy nor a checkpoint yet")
    raise RecipeError(
        f"{field}: {path} is no run, checkpoint, model or adapter; give a folder such as runs/NAME, "
        "runs/NAME/checkpoints/step-000020 or runs/NAME/policy"
    )


def base_of(origin: Origin) -> Path | None:
    """The model folder whose layers the weights have; None where it is not there any more."""
    if origin.kind == "model":
        return origin.folder
    file, name = _BASES[origin.kind]
    told = read_settings(origin.folder / file).get(name)
    return Path(told) if isinstance(told, str) and (Path(told) / "config.json").is_file() else None


_BASES = {
    "adapter": ("adapter_config.json", "base_model_name_or_path"),
    "checkpoint": ("state.json", "base"),
}


def _last_of(run: Path) -> Origin | None:
    """What a run came to: its policy, or a checkpoint, or what its supervised start did."""
    if (run / "policy").is_dir():
        return find_origin(run / "policy")
    if (checkpoint := _last_good(run / "checkpoints")) is not None:
        return Origin(kind="checkpoint", folder=checkpoint, run=run)
    if (run / "warm-start").is_dir():
        return Origin(kind="model", folder=run / "warm-start", run=run)
    checkpoint = _last_good(run / "sft" / "checkpoints")
    return None if checkpoint is None else Origin(kind="checkpoint", folder=checkpoint, run=run)


def _run_of(path: Path) -> Path | None:
    above = list(path.absolute().parents)[:3]
    if len(above) < 2 or above[1].name != "sft":  # only there do checkpoints lie deeper
        above = above[:2]
    return next((folder for folder in above if (folder / "recipe.yaml").is_file()), None)


def _last_good(checkpoints: Path) -> Path | None:
    from .checkpoint import Checkpoints  # torch

    step = Checkpoints(checkpoints).latest_good()
    return None if step is None else Checkpoints(checkpoints).path(step)


def write_whole_model(origin: Origin, folder: Path) -> None:
    """Write the model that the weights make; what is whole already is copied, file by file.

    Not linked: who writes over the origin in place would write over the copy too. Raises `RecipeError` where
    a file is damaged.
    """
    if origin.kind == "model":
        expect_whole(origin.folder)
        folder.mkdir(parents=True, exist_ok=True)
        for path in origin.folder.iterdir():
            if path.is_file():
                shutil.copyfile(path, folder / path.name)
        return
    from .merge import merge_adapter, merge_checkpoint

    (merge_adapter if origin.kind == "adapter" else merge_checkpoint)(origin.folder, folder)


def write_start(origin: Origin, folder: Path) -> None:
    """As `write_whole_model`, with the record of where it comes from."""
    write_whole_model(origin, folder)
    (folder / LINEAGE).write_text(json.dumps(origin.record(), indent=1), encoding="utf-8")


def start_files(folder: Path) -> dict[str, str]:
    """The fingerprint of what `write_start` wrote, as far as it is the model's."""
    return {name: digest for name, digest in fingerprint(folder).items() if name != LINEAGE}


def read_lineage(run: Path) -> dict[str, Any] | None:
    """What a run started from (`Origin.record`); None: from a model of the recipe."""
    path = run / "start" / LINEAGE
    if not path.is_file():
        return None
    return cast(dict[str, Any], json.loads(path.read_text(encoding="utf-8")))
