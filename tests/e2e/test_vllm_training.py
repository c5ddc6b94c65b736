"""The quickstart through a real vLLM server: exact tokens, one version an episode, no pause, no leftovers."""

import json
import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import support

RECIPE = Path(__file__).parents[2] / "examples" / "quickstart_vllm.yaml"
MAIN = "from palaestra.cli.main import main; main()"
SMALL = (
    "grpo.steps=3",
    "grpo.tasks_per_step=4",
    "env.held_out=16",
    "env.tasks.size=600",
    "warm_start.demonstrations=400",
    "warm_start.steps=70",
    "optimizer.warmup_steps=0",
)


@pytest.mark.vllm
@pytest.mark.timeout(900)
@pytest.mark.parametrize("temperature", [pytest.param(1.0, marks=pytest.mark.acceptance), 0.7])
def test_every_step_trains_what_vllm_sampled(tmp_path: Path, temperature: float) -> None:
    support.require("vllm")
    sets = (f"runs_dir={tmp_path}", f"sampling.temperature={temperature}", *SMALL)
    overrides = [word for setting in sets for word in ("--set", setting)]
    environment = {**os.environ, "PALAESTRA_VLLM_PYTHON": str(support.vllm_python())}
    subprocess.run(
        [sys.executable, "-P", "-c", MAIN, "train", str(RECIPE), *overrides], check=True, env=environment
    )
    run = tmp_path / "quickstart-vllm"
    check_exact(run)
    check_versions(run)
    check_server(run)


def check_exact(run: Path) -> None:
    """Engine and learner agree on every probe and on every trained token of a first update."""
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [step["step"] for step in steps] == [1, 2, 3]
    assert all(step["engine_drift"] <= 1e-4 for step in steps)
    assert all(step["engine_gap_max"] <= 1e-4 for step in steps if step["accepted"])


def check_versions(run: Path) -> None:
    """Each step's episodes are on the version before it, every token of them."""
    with sqlite3.connect(run / "run.sqlite") as db:
        rows = db.execute("SELECT version, graph FROM episodes WHERE split = 'train'").fetchall()
    db.close()
    assert sorted({version for version, _ in rows}) == [0, 1, 2]
    for version, graph in rows:
        spans = [
            span["version"]
            for segment in json.loads(graph)["segments"]
            for call in segment["calls"]
            for span in call["versions"]
        ]
        assert set(spans) == {version}


def check_server(run: Path) -> None:
    """Three adapters loaded, the finished ones unloaded, nothing paused, and the server is gone."""
    log = (run / "vllm.log").read_text(errors="replace")
    posts = re.findall(r'"POST (/[\w/]+)[^"]*" 200', log)
    assert posts.count("/v1/load_lora_adapter") == 3
    assert posts.count("/v1/unload_lora_adapter") == 2
    assert not re.search(r'"POST /(pause|sleep|resume)', log)
    assert [path.name for path in (run / "adapters").iterdir()] == ["policy-000003"]
    port = re.search(r"127\.0\.0\.1:(\d+)", log)
    assert port is not None
    listening = Path("/proc/net/tcp").read_text()
    assert f":{int(port[1]):04X} 00000000:0000 0A" not in listening
