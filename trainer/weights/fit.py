"""Weights on disk, and whether they fit a learner: asked before the first of them is taken."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from .._torch import read_tensors
from ..config import LoraConfig
from ..inputs import fingerprint
from ..ranks.sharding import like
from .adapters import own_name
from .stored import kind_of

_CURE = "give LearnerConfig.lora the same, or begin a new run on it with palaestra train --continue"
BASE = "base.json"
"""Beside an adapter: the folder and the hashes of the model that it was trained on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Adapter:
    """What an adapter's tensors say of it.

    >>> str(Adapter(rank=4, targets=("q_proj", "v_proj")))
    'an adapter of rank 4 on q_proj, v_proj'
    """

    rank: int
    targets: tuple[str, ...]

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "Adapter | None":
        """None: whole weights."""
        ranks = {name: tensor.shape[0] for name, tensor in tensors.items() if ".lora_A." in name}
        if not ranks:
            return None
        targets = {name.partition(".lora_A.")[0].rpartition(".")[2] for name in ranks}
        return cls(rank=max(ranks.values()), targets=tuple(sorted(targets)))

    def __str__(self) -> str:
        return f"an adapter of rank {self.rank} on {', '.join(self.targets)}"


def expect_fit(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], folder: Path) -> None:
    """Raise `ValueError`, which names what differs, unless names and shapes are the same."""
    theirs, ours = Adapter.of(found), Adapter.of(wanted)
    if theirs != ours:
        named = [str(adapter or "a whole model") for adapter in (theirs, ours)]
        raise ValueError(f"{folder} holds {named[0]}, and the learner trains {named[1]}; {_CURE}")
    if found.keys() != wanted.keys():
        odd = sorted(found.keys() ^ wanted.keys())[0]
        raise ValueError(f"{folder} is of another model or adapter: they differ in {odd!r}")
    for name, tensor in wanted.items():
        if found[name].shape != tensor.shape:
            shapes = f"{tuple(found[name].shape)}, and in the learner {tuple(tensor.shape)}"
            raise ValueError(f"{folder} is of another model: {name} is {shapes} there")


def take_weights(file: Path, parameters: Mapping[str, Tensor]) -> None:
    """Copy what a file holds into a learner's parameters. Raises as `expect_fit`, before the first."""
    found = {own_name(name): tensor for name, tensor in read_tensors(file).items()}
    expect_fit(found, parameters, file.parent)
    for name, parameter in parameters.items():
        parameter.data.copy_(like(found[name], parameter))


def take_slots(file: Path, parameters: Mapping[str, Tensor], state: Mapping[Any, dict[str, Tensor]]) -> None:
    """Put an optimizer's slots, "parameter/slot" in the file, into its `state`."""
    for key, value in read_tensors(file).items():
        name, _, slot = key.rpartition("/")
        if name in parameters:
            state[parameters[name]][slot] = like(value, parameters[name])


def expect_alpha(alpha: float, config: LoraConfig | None, folder: Path) -> None:
    """Raise `ValueError` for an adapter whose output is scaled otherwise."""
    if config is not None and alpha != config.alpha:
        raise ValueError(
            f"{folder} holds an adapter of alpha {alpha:g}, and the learner's is {config.alpha:g}; {_CURE}"
        )


def adapter_alpha(folder: Path) -> float:
    """Of an adapter in peft's format. Raises `ValueError` where a layer is not scaled by alpha / r."""
    settings: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    for field in ("use_rslora", "alpha_pattern", "rank_pattern"):
        if settings.get(field):
            raise ValueError(f"{folder}: {field} is {settings[field]!r}, which no learner here has; {_CURE}")
    return float(settings["lora_alpha"])


def saved_weights(folder: Path, config: LoraConfig | None, base: str | None) -> Path:
    """The file that a learner of this config, on the model folder `base`, has saved there.

    Raises `ValueError`, which names what the folder holds, where it is of another kind, alpha or base.
    """
    wanted, kind = "model" if config is None else "adapter", kind_of(folder)
    if kind != wanted:
        cure = "take it by load_checkpoint" if kind == "checkpoint" else _CURE
        found = "neither a model nor an adapter" if kind is None else f"a{'n' * (kind == 'adapter')} {kind}"
        trains = "every parameter" if config is None else "an adapter"
        raise ValueError(f"{folder} holds {found}, and the learner trains {trains}; {cure}")
    if config is None:
        return folder / "model.safetensors"
    expect_alpha(adapter_alpha(folder), config, folder)
    told = folder / BASE
    known: dict[str, Any] = json.loads(told.read_text(encoding="utf-8")) if told.is_file() else {}
    expect_base(known.get("sha256", {}), base, folder)
    return folder / "adapter_model.safetensors"


def expect_base(hashes: Mapping[str, str], base: str | None, folder: Path) -> None:
    """Raise `ValueError` for an adapter on another model than the one in `base`."""
    if base and (odd := other_base(Path(base), hashes)):
        raise ValueError(f"{folder} is an adapter on another model than {base}: they differ in {odd}")


def base_hashes(model: str | None) -> dict[str, str]:
    """SHA-256 by name of the files that make a model; none for one that is not on disk."""
    return fingerprint(Path(model)) if model and (Path(model) / "config.json").is_file() else {}


def write_base(model: str | None, hashes: Mapping[str, str], dtype: str, folder: Path) -> None:
    """Remember beside an adapter what it was trained on, and as what numbers."""
    told = {"base": model, "dtype": dtype.removeprefix("torch."), "sha256": dict(hashes)}
    (folder / BASE).write_text(json.dumps(told, indent=1), encoding="utf-8")


def other_base(model: Path, hashes: Mapping[str, str]) -> str | None:
    """The first file of a model that is not what was trained on; None: all are, or nothing is known."""
    if not hashes:
        return None
    now = fingerprint(model)
    return next((name for name in sorted(hashes) if now.get(name) != hashes[name]), None)
