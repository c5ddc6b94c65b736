"""Chains of runs: weights of one are where the next one starts, whatever was trained before."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support import run_async
from tiny_models import tiny_model
from trainer_builders import random_rows

from palaestra.agents.ledger import Ledger
from palaestra.trainer._torch import read_tensors
from palaestra.trainer.batches.rows import make_batch
from palaestra.trainer.beginning import START_FILES, Beginning
from palaestra.trainer.config import LearnerConfig, LoraConfig
from palaestra.trainer.errors import CorruptCheckpoint
from palaestra.trainer.inputs import sha256
from palaestra.trainer.learner import Learner
from palaestra.trainer.ranks.leader import open_learner
from palaestra.trainer.recipe import Recipe
from palaestra.trainer.recipe_file import RecipeError
from palaestra.trainer.reporting.progress import Silent
from palaestra.trainer.schedule import OptimizerConfig
from palaestra.trainer.weights.checkpoint import Checkpoints, CheckpointWarning, load_checkpoint
from palaestra.trainer.weights.lineage import (
    find_origin,
    read_lineage,
    start_files,
    write_start,
    write_whole_model,
)
from palaestra.trainer.weights.merge import checkpoint_adapter
from palaestra.trainer.weights.model import load_model, write_model

ROWS = random_rows(4)


def start(folder: Path) -> Path:
    """A model folder in Hugging Face format."""
    model = tiny_model("llama", num_hidden_layers=1)
    write_model(model, dict(model.named_parameters()), folder)
    return folder


def trained(model: Path, lora: LoraConfig | None) -> Learner:
    learner = Learner(load_model(model), LearnerConfig(lora=lora, optimizer=OptimizerConfig(lr=1e-2)))
    for _ in range(2):
        learner.forward_backward(make_batch(ROWS), "sft")
        learner.optim_step()
    return learner


def run_with(folder: Path, learner: Learner, *, over: bool) -> Path:
    """What a run leaves behind."""
    folder.mkdir()
    (folder / "recipe.yaml").write_text("name: x\n")
    Checkpoints(folder / "checkpoints").save(2, learner)
    if over:
        learner.save(folder / "policy")
    return folder


def logprobs(model: Path) -> list[float]:
    return [value for row in Learner(load_model(model)).logprobs(ROWS) for value in row]


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")  # peft, of transformers 5
@pytest.mark.parametrize("over", [True, False])
@pytest.mark.parametrize("lora", [None, LoraConfig(rank=4, alpha=8.0, targets=("q_proj", "down_proj"))])
def test_a_run_goes_on_where_another_one_was_by_another_rank_or_without_one(
    tmp_path: Path, lora: LoraConfig | None, over: bool
) -> None:
    learner = trained(start(tmp_path / "model"), lora)
    expected = [value for row in learner.logprobs(ROWS) for value in row]
    origin = find_origin(run_with(tmp_path / "a", learner, over=over))
    assert origin.kind == ("checkpoint" if not over else "model" if lora is None else "adapter")
    (tmp_path / "b").mkdir()
    write_start(origin, tmp_path / "b" / "start")
    assert logprobs(tmp_path / "b" / "start") == pytest.approx(expected, abs=1e-5)
    for next_lora in (LoraConfig(rank=2), None):
        child = Learner(load_model(tmp_path / "b" / "start"), LearnerConfig(lora=next_lora))
        assert [value for row in child.logprobs(ROWS) for value in row] == pytest.approx(expected, abs=1e-5)
        assert child.num_steps == 0 and not child.optimizer.state


def test_every_ancestor_is_on_record_with_its_bits(tmp_path: Path) -> None:
    run_with(tmp_path / "sft", trained(start(tmp_path / "model"), None), over=True)
    for child, parent in (("rl", "sft"), ("rl2", "rl")):
        (tmp_path / child).mkdir()
        write_start(find_origin(tmp_path / parent), tmp_path / child / "start")
        learner = trained(tmp_path / child / "start", None)
        learner.save(tmp_path / child / "policy")
        (tmp_path / child / "recipe.yaml").write_text("name: x\n")
    told: Any = read_lineage(tmp_path / "rl2")
    assert (told["run"], told["parent"]["run"], told["parent"]["parent"]) == ("rl", "sft", None)
    assert told["kind"] == "model" and "model.safetensors" in told["sha256"]
    assert told["sha256"] != told["parent"]["sha256"]
    assert read_lineage(tmp_path / "sft") is None


def test_the_copy_of_a_parent_outlives_it_and_leaves_it_alone(tmp_path: Path) -> None:
    parent = run_with(tmp_path / "a", trained(start(tmp_path / "model"), None), over=True) / "policy"
    expected, files = logprobs(parent), sorted(path.name for path in parent.iterdir())
    write_start(find_origin(parent), tmp_path / "start")
    write_start(find_origin(tmp_path / "start"), tmp_path / "again")
    assert json.loads((tmp_path / "start" / "lineage.json").read_text())["run"] == "a"
    assert sorted(path.name for path in parent.iterdir()) == files
    for path in parent.iterdir():
        path.unlink()
    assert logprobs(tmp_path / "again") == expected


def test_who_writes_over_the_origin_in_place_leaves_the_copy_alone(tmp_path: Path) -> None:
    origin = start(tmp_path / "blobs")
    (tmp_path / "model").mkdir()
    for path in origin.iterdir():  # as a hub's cache has them
        (tmp_path / "model" / path.name).symlink_to(path)
    write_start(find_origin(tmp_path / "model"), tmp_path / "start")
    before = start_files(tmp_path / "start")
    assert before == {path.name: sha256(path) for path in origin.iterdir()}
    for path in origin.iterdir():
        path.write_bytes(b"another one's")
    assert start_files(tmp_path / "start") == before
    assert not any(path.is_symlink() for path in (tmp_path / "start").iterdir())


def test_a_start_that_was_killed_before_it_had_its_name_is_made_anew(tmp_path: Path) -> None:
    """Its fact may be of other weights, where the run that it starts from went on."""
    fields = {
        "runs_dir": tmp_path,
        "env": {"id": "arithmetic"},
        "model": {"start": start(tmp_path / "model")},
    }
    recipe = Recipe.model_validate({"name": "x", **fields})
    none: Any = None
    recipe.folder.mkdir()
    with Ledger(recipe.folder) as ledger:
        beginning = Beginning(
            recipe=recipe,
            arena=none,
            progress=Silent(),
            ledger=ledger,
            grading=None,
            interrupt=none,
            ranks=None,
            device="cpu",
        )
        others = json.dumps({"model.safetensors": "0" * 64})
        ledger.set_meta(START_FILES, others)
        made = run_async(beginning.model())
        assert json.loads(ledger.meta(START_FILES) or "") == start_files(made)
        ledger.record_step(1, {})
        ledger.set_meta(START_FILES, others)
        shutil.rmtree(made)  # of a run that has trained, it is the one that it trained from
        with pytest.raises(RecipeError, match=r"start/model\.safetensors have changed .*; bring back"):
            run_async(beginning.model())


@pytest.mark.parametrize("size", [0, 7, 100, -1])
def test_a_model_that_is_cut_short_is_refused_before_anything_is_copied(tmp_path: Path, size: int) -> None:
    file = start(tmp_path / "model") / "model.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(RecipeError, match=r"model/model\.safetensors is damaged: .*; bring back"):
        write_whole_model(find_origin(tmp_path / "model"), tmp_path / "out")
    (tmp_path / "model" / "config.json").write_text("{")
    with pytest.raises(RecipeError, match=r"model/config\.json cannot be read: .*; bring back"):
        write_whole_model(find_origin(tmp_path / "model"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_of_a_run_with_a_broken_checkpoint_the_one_before_is_taken_aloud(tmp_path: Path) -> None:
    learner = trained(start(tmp_path / "model"), None)
    run = run_with(tmp_path / "a", learner, over=False)
    Checkpoints(run / "checkpoints").save(3, learner)
    (run / "checkpoints" / "step-000003" / "weights.safetensors").write_bytes(b"")
    with pytest.warns(CheckpointWarning, match="weights.safetensors"):
        origin = find_origin(run)
    assert origin.folder.name == "step-000002"
    broken = find_origin(run / "checkpoints" / "step-000003")
    with pytest.raises(CorruptCheckpoint, match=r"weights\.safetensors"):
        write_whole_model(broken, tmp_path / "out")


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")
def test_the_adapter_of_a_checkpoint_is_the_one_that_is_saved(tmp_path: Path) -> None:
    learner = trained(start(tmp_path / "model"), LoraConfig(rank=4, lr_ratio=16.0))
    run = run_with(tmp_path / "a", learner, over=True)
    checkpoint_adapter(run / "checkpoints" / "step-000002", tmp_path / "out")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "out" / name).read_bytes() == (run / "policy" / name).read_bytes()
    full = trained(tmp_path / "model", None)
    Checkpoints(tmp_path / "b").save(1, full)
    with pytest.raises(RecipeError, match="trained every parameter: there is no adapter"):
        checkpoint_adapter(tmp_path / "b" / "step-000001", tmp_path / "no")


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")
def test_an_adapter_is_merged_into_the_model_that_it_was_trained_on_and_no_other(tmp_path: Path) -> None:
    learner = trained(start(tmp_path / "model"), LoraConfig(rank=4))
    run = run_with(tmp_path / "a", learner, over=True)
    checkpoint_adapter(run / "checkpoints" / "step-000002", tmp_path / "alone")
    adapters = [run / "policy", run / "checkpoints" / "step-000002", tmp_path / "alone"]
    for number, folder in enumerate(adapters):
        write_whole_model(find_origin(folder), tmp_path / f"whole-{number}")
    other = tiny_model("llama", num_hidden_layers=1, seed=1)
    write_model(other, dict(other.named_parameters()), tmp_path / "model")
    for folder in adapters:
        with pytest.raises(RecipeError, match=r"differ in model\.safetensors; put the old one back"):
            write_whole_model(find_origin(folder), tmp_path / "no")
    again = Learner(load_model(tmp_path / "model"), learner.config)
    with pytest.raises(ValueError, match=r"another model than .* they differ in model\.safetensors"):
        load_checkpoint(adapters[1], again)
    with pytest.raises(ValueError, match=r"another model than .* they differ in model\.safetensors"):
        again.load(adapters[0])


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")
def test_an_adapter_on_a_base_in_half_precision_trains_in_float32_and_merges_without_rounding(
    tmp_path: Path,
) -> None:
    model, lora = start(tmp_path / "model"), LoraConfig(rank=4, base_dtype="bfloat16")
    config = LearnerConfig(lora=lora, dtype="bfloat16", optimizer=OptimizerConfig(lr=1e-6))
    learner = open_learner(model, config)
    assert isinstance(learner, Learner)
    assert {p.dtype for name, p in learner.model.named_parameters() if ".lora_" not in name} == {
        torch.bfloat16
    }
    assert {p.dtype for p in learner.parameters.values()} == {torch.float32}
    for _ in range(2):
        learner.forward_backward(make_batch(ROWS), "sft")
        learner.optim_step()
    run = run_with(tmp_path / "a", learner, over=True)
    merged = {name: tensor.clone() for name, tensor in learner.state_for_engine().items()}
    name = "model.layers.0.mlp.up_proj"
    a, b = (learner.parameters[f"{name}.lora_{half}.default.weight"].detach() for half in "AB")
    base = load_model(model, "bfloat16").state_dict()[f"{name}.weight"].float()
    step = merged[f"{name}.weight"] - base
    assert 0 < float(step.abs().max()) < 1e-3  # of weights of 0.1, whose half precision ends at 4e-4
    torch.testing.assert_close(step, 8.0 * (b @ a), atol=1e-7, rtol=1e-3)
    for folder in (run / "policy", run / "checkpoints" / "step-000002"):
        write_whole_model(find_origin(folder), tmp_path / folder.name)
        found = read_tensors(tmp_path / folder.name / "model.safetensors")
        assert all(torch.equal(found[name], merged[name]) for name in found)


def test_of_a_run_that_was_killed_in_its_supervised_start_the_last_weights_are_taken(tmp_path: Path) -> None:
    learner, run = trained(start(tmp_path / "model"), None), tmp_path / "a"
    run.mkdir()
    (run / "recipe.yaml").write_text("name: x\n")
    found: list[str] = []
    kept: list[Callable[[], None]] = [
        lambda: Checkpoints(run / "sft" / "checkpoints").save(4, learner),
        lambda: learner.export_merged(run / "warm-start"),
        lambda: Checkpoints(run / "checkpoints").save(2, learner),
        lambda: learner.save(run / "policy"),
    ]
    for make in kept:
        make()
        origin = find_origin(run)
        assert find_origin(origin.folder) == origin and origin.run == run
        found.append(str(origin.folder.relative_to(run)))
    assert found == ["sft/checkpoints/step-000004", "warm-start", "checkpoints/step-000002", "policy"]


def test_what_holds_no_weights_is_refused_with_what_would(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"model\.start: .* is no run, checkpoint, model or adapter"):
        find_origin(tmp_path)
    (tmp_path / "recipe.yaml").write_text("name: x\n")
    with pytest.raises(RecipeError, match="neither a policy nor a checkpoint yet"):
        find_origin(tmp_path)
    learner = trained(start(tmp_path / "model"), None)
    Checkpoints(tmp_path / "checkpoints").save(1, learner)
    (tmp_path / "model" / "config.json").unlink()
    with pytest.raises(RecipeError, match="model, which is not there; call from the folder"):
        write_whole_model(find_origin(tmp_path), tmp_path / "out")


def test_lora_plus_moves_b_by_its_ratio_of_the_rate() -> None:
    """Adam's first step is the rate, whatever the gradient is."""

    def first_step(ratio: float) -> dict[str, float]:
        config = LearnerConfig(
            lora=LoraConfig(rank=4, lr_ratio=ratio), optimizer=OptimizerConfig(lr=1e-3, eps=1e-12)
        )
        learner = Learner(tiny_model("llama", num_hidden_layers=1), config)
        before = {name: p.detach().clone() for name, p in learner.parameters.items()}
        learner.forward_backward(make_batch(ROWS), "sft")
        assert learner.optim_step().lr == 1e-3
        with torch.no_grad():
            return {
                name: float((p - before[name]).abs().max())
                for name, p in learner.parameters.items()
                if ".lora_B." in name
            }

    plain, plus = first_step(1.0), first_step(16.0)
    assert all(value == pytest.approx(1e-3, rel=1e-3) for value in plain.values())
    assert all(value == pytest.approx(16e-3, rel=1e-3) for value in plus.values())
