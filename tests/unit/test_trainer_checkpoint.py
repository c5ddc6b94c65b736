"""Checkpoints: exact, whole or not at all, and loud when they are not what was written."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import tiny_model
from trainer_builders import make_llama_learner, on_policy, random_rows

from palaestra.trainer import inputs
from palaestra.trainer.batches.rows import make_batch
from palaestra.trainer.config import LearnerConfig, LoraConfig
from palaestra.trainer.errors import CorruptCheckpoint
from palaestra.trainer.learner import Learner
from palaestra.trainer.schedule import OptimizerConfig
from palaestra.trainer.weights import checkpoint
from palaestra.trainer.weights.checkpoint import (
    Checkpoints,
    CheckpointWarning,
    load_checkpoint,
    save_checkpoint,
    verify_checkpoint,
)

FILES = ("manifest.json", "optimizer.safetensors", "state.json", "weights.safetensors")


def fresh(lora: LoraConfig | None = None) -> Learner:
    optimizer = OptimizerConfig(lr=1e-2, warmup_steps=2, schedule="cosine", total_steps=8, weight_decay=0.1)
    return make_llama_learner(LearnerConfig(optimizer=optimizer, lora=lora))


def train(learner: Learner, steps: range) -> list[float]:
    losses = list[float]()
    for step in steps:
        rows = on_policy(learner, random_rows(4, seed=step))
        losses.append(learner.forward_backward(make_batch(rows)).loss)
        learner.optim_step()
    return losses


def everything(learner: Learner) -> list[torch.Tensor]:
    slots = [
        learner.optimizer.state[p][name]
        for p in learner.parameters.values()
        for name in ("exp_avg", "exp_avg_sq")
    ]
    return [*(p.detach() for p in learner.parameters.values()), *slots]


@pytest.mark.parametrize("lora", [None, LoraConfig(rank=4, alpha=8.0)])
def test_four_steps_equal_two_and_a_reload_and_two_bit_for_bit(
    tmp_path: Path, lora: LoraConfig | None
) -> None:
    through, first = fresh(lora), fresh(lora)
    losses = train(through, range(4))
    assert train(first, range(2)) == losses[:2]
    save_checkpoint(tmp_path / "step-000002", first, {"cursor": 2})
    second = fresh(lora)
    assert load_checkpoint(tmp_path / "step-000002", second) == {"cursor": 2}
    assert second.num_steps == 2
    assert train(second, range(2, 4)) == losses[2:]
    assert all(torch.equal(a, b) for a, b in zip(everything(through), everything(second), strict=True))


def test_without_the_optimizers_state_the_steps_would_differ(tmp_path: Path) -> None:
    through, first = fresh(), fresh()
    train(through, range(4))
    train(first, range(2))
    first.restart(first.config.optimizer)
    train(first, range(2, 4))
    assert not all(torch.equal(a, b) for a, b in zip(everything(through), everything(first), strict=True))


def test_random_states_come_back(tmp_path: Path) -> None:
    learner = fresh()
    save_checkpoint(tmp_path / "a", learner)
    expected = torch.rand(3)
    load_checkpoint(tmp_path / "a", learner)
    assert torch.equal(torch.rand(3), expected)


def saved(folder: Path, *steps: int, keep: int = 9) -> Checkpoints:
    checkpoints, learner = Checkpoints(folder, keep=keep), fresh()
    for step in steps:
        train(learner, range(learner.num_steps, step))
        checkpoints.save(step, learner)
    return checkpoints


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_file_is_named_and_the_checkpoint_before_is_used(
    tmp_path: Path, name: str, damage: str
) -> None:
    checkpoints = saved(tmp_path, 1, 2)
    path = checkpoints.path(2) / name
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif damage == "cut":
        path.write_bytes(data[:-1])
    else:
        path.unlink()
    learner = fresh()
    blamed = r"\w" if (name, damage) == ("manifest.json", "flip") else name  # it may be a hash that changed
    with pytest.warns(CheckpointWarning, match=rf"{blamed}.*going back"):
        assert checkpoints.restore(learner) == 1
    assert learner.num_steps == 1
    assert checkpoints.steps() == [1]
    assert (tmp_path / "step-000002.corrupt").is_dir()


@pytest.mark.parametrize("manifest", ["[]", "7", "{}", '{"sha256": []}', '{"sha256": 7}', '{"sha256": null}'])
def test_a_manifest_of_another_shape_is_a_damaged_one(tmp_path: Path, manifest: str) -> None:
    checkpoints = saved(tmp_path, 1)
    (checkpoints.path(1) / "manifest.json").write_text(manifest)
    with pytest.raises(CorruptCheckpoint):
        verify_checkpoint(checkpoints.path(1))


def test_when_none_is_whole_nothing_is_loaded(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 1)
    (checkpoints.path(1) / "state.json").write_text("{}")
    with (
        pytest.warns(CheckpointWarning, match="state.json"),
        pytest.raises(CorruptCheckpoint, match=r"no checkpoint in .* is whole"),
    ):
        checkpoints.restore(fresh())


def test_a_run_without_checkpoints_starts_at_zero(tmp_path: Path) -> None:
    learner = fresh()
    assert Checkpoints(tmp_path / "none").restore(learner) == 0
    assert learner.num_steps == 0


def test_only_the_last_ones_are_kept(tmp_path: Path) -> None:
    assert saved(tmp_path, 1, 2, 3, keep=2).steps() == [2, 3]


@pytest.mark.parametrize("dies_in", ["write_tensors", "sha256", "replace_folder"])
def test_a_save_that_dies_halfway_leaves_the_older_ones_and_no_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies_in: str
) -> None:
    checkpoints = saved(tmp_path, 1)
    learner = fresh()

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, dies_in, die)
        with pytest.raises(KeyboardInterrupt):
            checkpoints.save(2, learner)
    assert checkpoints.steps() == [1]
    checkpoints.save(2, learner)
    assert checkpoints.latest_good() == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000001", "step-000002"]


@pytest.mark.parametrize("dies_at", ["old", "new"])
def test_a_save_over_an_old_one_that_dies_between_two_moves_leaves_one_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies_at: str
) -> None:
    learner, path = fresh(), tmp_path / "last"
    save_checkpoint(path, learner, {"of": "before"})
    move = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if (self == path) == (dies_at == "old"):
            raise KeyboardInterrupt
        return move(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(path, learner, {"of": "now"})
    assert load_checkpoint(path, learner) == {"of": "before"}
    save_checkpoint(path, learner, {"of": "now"})
    assert load_checkpoint(path, learner) == {"of": "now"}
    assert [found.name for found in tmp_path.iterdir()] == ["last"]


LORA = LoraConfig(rank=4, alpha=8.0, targets=("q_proj", "v_proj"))
OTHERS = {
    r"alpha 8, and the learner's is 32": replace(LORA, alpha=32.0),
    r"rank 4 on q_proj, v_proj, and the learner trains an adapter of rank 8 on": replace(LORA, rank=8),
    r"on q_proj, v_proj, and .* on q_proj;": replace(LORA, targets=("q_proj",)),
    r"an adapter of rank 4 .*, and the learner trains a whole model": None,
}


@pytest.mark.parametrize(("words", "lora"), OTHERS.items())
def test_another_adapter_is_refused_before_a_weight_has_moved(
    tmp_path: Path, words: str, lora: LoraConfig | None
) -> None:
    learner = fresh(LORA)
    train(learner, range(1))
    save_checkpoint(tmp_path / "a", learner)
    learner.save(tmp_path / "policy")
    other = fresh(lora)
    before = {name: tensor.clone() for name, tensor in other.tensors().items()}
    with pytest.raises(ValueError, match=words):
        load_checkpoint(tmp_path / "a", other)
    if lora is not None:
        with pytest.raises(ValueError, match=f"{words}.* --continue"):
            other.load(tmp_path / "policy")
    assert all(torch.equal(before[name], tensor) for name, tensor in other.tensors().items())
    fresh(LORA).load(tmp_path / "policy")


def test_what_is_no_saved_policy_of_its_kind_is_refused_by_name(tmp_path: Path) -> None:
    whole, adapted = fresh(), fresh(LORA)
    whole.save(tmp_path / "whole")
    adapted.save(tmp_path / "adapter")
    save_checkpoint(tmp_path / "step", whole)
    with pytest.raises(
        ValueError, match=r"adapter holds an adapter, and the learner trains every parameter;"
    ):
        whole.load(tmp_path / "adapter")
    with pytest.raises(ValueError, match=r"whole holds a model, and the learner trains an adapter; .*--cont"):
        adapted.load(tmp_path / "whole")
    with pytest.raises(ValueError, match=r"step holds a checkpoint, .*; take it by load_checkpoint"):
        whole.load(tmp_path / "step")
    with pytest.raises(ValueError, match="holds neither a model nor an adapter"):
        adapted.load(tmp_path)


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a", fresh())
    with pytest.raises(ValueError, match="holds a whole model, and the learner trains an adapter of rank 4"):
        load_checkpoint(tmp_path / "a", fresh(LoraConfig(rank=4)))
    larger = Learner(tiny_model("llama", num_hidden_layers=1, intermediate_size=64))
    with pytest.raises(ValueError, match=r"mlp.* is \(96, 64\), and in the learner \(64, 64\) there"):
        load_checkpoint(tmp_path / "a", larger)
    deeper = Learner(tiny_model("llama", num_hidden_layers=2))
    with pytest.raises(ValueError, match=r"they differ in 'model\.layers\.1"):
        load_checkpoint(tmp_path / "a", deeper)


def test_a_reference_policy_must_be_there_before_loading(tmp_path: Path) -> None:
    learner = fresh()
    learner.keep_reference()
    save_checkpoint(tmp_path / "a", learner)
    with pytest.raises(ValueError, match="keep_reference on the model that the run started from"):
        load_checkpoint(tmp_path / "a", fresh())
    load_checkpoint(tmp_path / "a", learner)


def test_nothing_but_tensors_and_json_is_in_a_checkpoint(tmp_path: Path) -> None:
    folder = saved(tmp_path, 1).path(1)
    assert sorted(path.name for path in folder.iterdir()) == list(FILES)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert set(manifest["sha256"]) == set(FILES) - {"manifest.json"}
    shutil.rmtree(folder)


def test_the_best_ones_stay_beside_the_last_ones(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1, keep_best=2)
    learner = fresh()
    for step, score in ((1, 0.1), (2, 0.9), (3, 0.5), (4, 0.5), (5, 0.2)):
        checkpoints.save(step, learner)
        checkpoints.rate(step, score)
    assert checkpoints.best() == [4, 2]
    assert checkpoints.steps() == [2, 4, 5]
    assert checkpoints.scores() == {"2": 0.9, "4": 0.5, "5": 0.2}
    assert checkpoints.latest_good() == 5


def test_a_checkpoint_knows_its_version_and_its_run_and_is_taken_for_no_other(tmp_path: Path) -> None:
    learner = fresh()
    ours, theirs = (Checkpoints(tmp_path / name, run=name) for name in ("ours", "theirs"))
    for checkpoints in (ours, theirs):
        checkpoints.save(1, learner)
        train(learner, range(1))
        checkpoints.save(2, learner)
    before = [tensor.clone() for tensor in everything(learner)]
    shutil.copytree(ours.path(1), ours.path(3))
    with pytest.raises(CorruptCheckpoint, match=r"step-000003 is of version 1, .* belongs version 3: it was"):
        ours.restore(learner)
    shutil.rmtree(ours.path(3))
    shutil.copytree(theirs.path(2), ours.path(2), dirs_exist_ok=True)
    with pytest.raises(CorruptCheckpoint, match=r"of run theirs, .* run ours: .* remove it, or .*--continue"):
        ours.restore(learner)
    assert all(torch.equal(a, b) for a, b in zip(everything(learner), before, strict=True))
    shutil.rmtree(ours.path(2))
    assert ours.restore(learner) == 1


def test_of_a_run_from_before_checkpoints_named_it_the_newest_one_is_taken(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "step-000004", fresh())
    assert Checkpoints(tmp_path, run="x").restore(fresh()) == 4


def test_to_restore_is_to_hash_each_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints, hashed = saved(tmp_path, 1, 2), list[str]()

    def sha256(path: Path) -> str:
        hashed.append(path.name)
        return inputs.sha256(path)

    monkeypatch.setattr(checkpoint, "sha256", sha256)
    assert checkpoints.restore(fresh()) == 2
    assert sorted(hashed) == [name for name in FILES if name != "manifest.json"]
