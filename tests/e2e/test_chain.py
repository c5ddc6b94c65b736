"""SFT, then reinforcement learning with an adapter, then with every parameter: three runs and an export."""

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
import yaml
from command import TINY, forked

from palaestra.trainer._torch import read_tensors

SFT: dict[str, Any] = {
    "name": "sft",
    "grpo": {"steps": 0},
    "warm_start": {**TINY["warm_start"], "lora": {"rank": 4, "lr_ratio": 16}},
}
RL: dict[str, Any] = {"name": "rl", "lora": {"rank": 2}, "warm_start": None, "model": {"tool_format": "none"}}
RL2: dict[str, Any] = {**RL, "name": "rl2", "lora": None}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return read_tensors(folder / "model.safetensors")


def is_same(left: Path, right: Path) -> bool:
    ours, theirs = weights(left), weights(right)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_three_runs_in_a_chain_and_what_they_export(tmp_path: Path) -> None:
    runs = tmp_path / "runs"

    def palaestra(*words: str) -> str:
        done = forked(*words, cwd=tmp_path)
        assert done.code == 0, done.stderr
        return done.stdout

    for recipe in (SFT, RL, RL2):
        (tmp_path / f"{recipe['name']}.yaml").write_text(yaml.safe_dump(TINY | recipe))
    palaestra("train", "sft.yaml")
    assert is_same(runs / "sft" / "policy", runs / "sft" / "warm-start")
    assert not is_same(runs / "sft" / "policy", runs / "sft" / "model")

    palaestra("train", "rl.yaml", "--continue", "runs/sft")
    assert is_same(runs / "rl" / "start", runs / "sft" / "policy")
    assert (runs / "rl" / "policy" / "adapter_config.json").is_file()
    palaestra("train", "rl2.yaml", "--continue", "runs/rl/checkpoints/step-000002")
    assert not is_same(runs / "rl2" / "start", runs / "rl" / "start")
    with closing(sqlite3.connect(runs / "rl2" / "run.sqlite")) as db:
        ((stored,),) = db.execute("SELECT value FROM meta WHERE key = 'lineage'").fetchall()
    told = json.loads(stored)
    assert told == json.loads((runs / "rl2" / "start" / "lineage.json").read_text())
    assert (told["kind"], told["run"], told["parent"]["run"]) == ("checkpoint", "rl", "sft")

    palaestra("export", "runs/rl", "merged")
    assert is_same(tmp_path / "merged", runs / "rl2" / "start")
    assert (tmp_path / "merged" / "tokenizer.json").is_file()
    palaestra("export", "runs/rl/checkpoints/step-000002", "adapter", "--adapter")
    name = "adapter_model.safetensors"
    assert (tmp_path / "adapter" / name).read_bytes() == (runs / "rl" / "policy" / name).read_bytes()
    again = forked("export", "runs/rl", "merged", cwd=tmp_path)
    assert again.code == 2 and "is there already" in again.stderr
    whole = forked("export", "runs/sft", "none", "--adapter", cwd=tmp_path)
    assert whole.code == 2 and "leave --adapter out" in whole.stderr

    # Whoever alters what a run started from is told, and a run of before that was remembered is not.
    own, resume = runs / "rl2" / "start" / "model.safetensors", ("train", "rl2.yaml", "--resume")
    chained = (*resume, "--set", "model.start=runs/rl", "--set", "model.tiny=null")
    kept = own.read_bytes()
    own.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    odd = forked(*chained, cwd=tmp_path)
    assert odd.code == 2 and "Traceback" not in odd.stderr
    words = (
        "runs/rl2/start/model.safetensors has changed and is not what runs/rl2 was started with; bring back"
    )
    assert words in " ".join(odd.stderr.split())
    own.write_bytes(kept)
    palaestra(*chained)
    with closing(sqlite3.connect(runs / "rl2" / "run.sqlite")) as db, db:
        assert db.execute("DELETE FROM meta WHERE key = 'start'").rowcount == 1
    palaestra(*chained)

    # What nobody can start from is told before there is a folder.
    odd_one = shutil.copytree(runs / "rl" / "policy", tmp_path / "odd")
    settings = json.loads((odd_one / "adapter_config.json").read_text())
    (odd_one / "adapter_config.json").write_text(json.dumps({**settings, "use_dora": True}))
    refused = forked("train", "rl.yaml", "--continue", "odd", "--set", "name=rl3", cwd=tmp_path)
    assert refused.code == 2 and "use_dora is True" in refused.stderr and not (runs / "rl3").exists()

    # The same words again name a run that is there, and resuming does not need the parent any more.
    again = forked("train", "rl.yaml", "--continue", "runs/sft", cwd=tmp_path)
    assert again.code == 2 and "--resume" in again.stderr
    (runs / "sft").rename(tmp_path / "elsewhere")
    done = forked("train", "rl.yaml", "--set", "model.start=runs/sft", "--resume", cwd=tmp_path)
    assert done.code == 0, done.stderr
