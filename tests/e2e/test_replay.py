"""`palaestra replay`: stored losses from the run file alone, and what was altered there by step and row."""

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from command import forked
from trainings import TINY_RECIPE, Training

from palaestra.agents.trajectory import EpisodeKey

pytestmark = pytest.mark.timeout(900)

RUNS: dict[str, dict[str, Any]] = {
    "lora": {
        "lora": {"rank": 4, "alpha": 8.0},
        "grpo": {"loss": "gspo", "share_prefixes_from": 8, "kl_coefficient": 0.05},
    },
    "full": {
        "grpo": {
            "loss": "cispo",
            "loss_options": {"max_ratio": 1.1},
            "entropy_coefficient": 0.01,
            "reference": True,
        }
    },
}
"""Both with packed rows, as they are unless somebody says otherwise; the first with shared prefixes too."""


@pytest.fixture(scope="module", params=RUNS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Training:
    """Read only: a test that changes something copies it."""
    changes: dict[str, Any] = RUNS[request.param]
    grpo: dict[str, Any] = TINY_RECIPE["grpo"]
    recipe: dict[str, Any] = (
        TINY_RECIPE
        | changes
        | {
            "grpo": grpo | {"steps": 3, "group_size": 4} | changes["grpo"],
            "warm_start": TINY_RECIPE["warm_start"] | {"steps": 10},
            "evaluation": {},
        }
    )
    run = Training(tmp_path_factory.mktemp(request.param), recipe)
    assert run.start().wait() == 0, run.log()
    return run


@pytest.fixture
def own(run: Training, tmp_path: Path) -> Path:
    """A copy of the run file and its recipe, and of nothing else: that is all a replay reads."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for name in ("recipe.yaml", "run.sqlite"):
        shutil.copy(run.run / name, folder)
    return folder


def replayed(folder: Path) -> tuple[int, list[dict[str, Any]]]:
    done = forked("replay", folder, "--json", cwd=folder)
    assert done.code in (0, 1), done.stderr
    return done.code, json.loads(done.stdout)["updates"]


def test_every_update_has_the_stored_loss_from_the_run_file_alone(own: Path) -> None:
    code, updates = replayed(own)
    assert code == 0 and [(each["step"], each["update"]) for each in updates] == [
        (step, update) for step in (1, 2, 3) for update in (0, 1)
    ]
    assert all(abs(each["loss"] - each["stored_loss"]) <= 1e-6 for each in updates), updates
    assert all(abs(each["loss"]) > 1e-4 for each in updates), "losses of nothing would be found again too"


Graph = dict[str, Any]


def another_token(graph: Graph) -> None:
    graph["segments"][0]["calls"][0]["completion_ids"][0] ^= 1


def another_prompt(graph: Graph) -> None:
    graph["segments"][0]["calls"][0]["prompt_ids"][1] ^= 1


def another_logprob(graph: Graph) -> None:
    graph["segments"][0]["calls"][0]["logprobs"][0] -= 1e-9


def another_mask(graph: Graph) -> None:
    call = graph["segments"][0]["calls"][0]
    call["prompt_ids"].append(call["completion_ids"].pop(0))


EPISODES: dict[Callable[[Graph], None], str] = {
    another_token: "tokens of the episode",
    another_prompt: "tokens of the episode",
    another_logprob: "engine_logprobs of the episode",
    another_mask: "positions in the record",
}
"""What is done to an episode, and how the row is reported."""

RECORDS = {
    "positions": "positions in the record",
    "advantages": "advantages in the record",
    "logprobs": "logprobs in the record",
    "ref_logprobs": "ref_logprobs in the record",
}
"""The list of a step's record of which a value is changed, and how."""


def test_whatever_is_altered_is_reported_by_step_and_row(own: Path) -> None:
    expected: list[tuple[int, str, str]] = []
    places = [(step, update) for step in (1, 2, 3) for update in (0, 1)]
    with closing(sqlite3.connect(own / "run.sqlite")) as db, db:
        for number, (alteration, words) in enumerate([*EPISODES.items(), *RECORDS.items()]):
            step, update = places[number % len(places)]
            record = json.loads(db.execute("SELECT record FROM steps WHERE step = ?", (step,)).fetchone()[0])
            row = record["updates"][update]["rows"][number // len(places)]
            if callable(alteration):
                alter_episode(db, row["key"], alteration)
            else:
                row[alteration][0] += 1
                db.execute("UPDATE steps SET record = ? WHERE step = ?", (json.dumps(record), step))
            task_id, epoch, sample, attempt = row["key"]
            key = EpisodeKey(task_id=task_id, epoch=epoch, sample=sample, attempt=attempt)
            expected.append((step, str(key), words))
    code, updates = replayed(own)
    found = [(each["step"], *text.split(": ", 1)) for each in updates for text in each["differences"]]
    assert code == 1
    assert {(step, key) for step, key, _ in found} == {(step, key) for step, key, _ in expected}, found
    for step, name, words in expected:
        assert any((at, row) == (step, name) and text.startswith(words) for at, row, text in found), found


def alter_episode(db: sqlite3.Connection, key: list[Any], alteration: Callable[[Graph], None]) -> None:
    where = "split = 'train' AND task_id = ? AND epoch = ? AND sample = ? AND attempt = ?"
    graph = json.loads(db.execute(f"SELECT graph FROM episodes WHERE {where}", key).fetchone()[0])
    alteration(graph)
    done = db.execute(f"UPDATE episodes SET graph = ? WHERE {where}", (json.dumps(graph), *key))
    assert done.rowcount == 1
