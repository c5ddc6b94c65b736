"""Runs with other advantages, losses and averages than the defaults: trained, and computed again from the
record."""

from pathlib import Path
from typing import Any

import pytest
from trainings import TINY_RECIPE, Training, result

from palaestra.agents.ledger import Ledger
from palaestra.trainer.recipe_file import read_recipe
from palaestra.trainer.reporting.replay import replay_stored

pytestmark = pytest.mark.timeout(300)

RUNS: dict[str, dict[str, Any]] = {
    "turns": {
        "advantage": "weighted",
        "advantage_options": {"parts": {"grpo": 1.0, "turn_groups": 0.5}},
        "loss": "gspo",
        "correction": {"level": "geometric", "kind": "mask", "low": 0.9, "high": 1.1},
        "aggregation": "turn",
        "zero_variance": "keep",
    },
    "mixed": {
        "advantage": "reinforce_pp",
        "loss": "dr_grpo",
        "aggregation_tokens": 64,
        "kl_coefficient": 0.1,
        "kl_kind": "k1",
        "entropy_coefficient": 0.01,
        "sft_coefficient": 0.5,
        "sft_batch": 2,
        "sft_demonstrations": 4,
    },
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_trains_and_its_losses_are_found_again_in_the_run_file(tmp_path: Path, name: str) -> None:
    grpo = TINY_RECIPE["grpo"] | RUNS[name] | {"steps": 2}
    warm = TINY_RECIPE["warm_start"] | {"steps": 10}
    changes: dict[str, Any] = {"evaluation": {}, "grpo": grpo, "warm_start": warm}
    run = Training(tmp_path, TINY_RECIPE | changes)
    assert run.start().wait() == 0, run.log()
    steps = result(run).steps
    assert len(steps) == 2 and any(record["updates"] for _, record in steps)
    metrics = steps[0][1]["metrics"]
    assert metrics["lost_share"] == 0.0 and metrics["reward_lower"] == metrics["reward_upper"]
    assert {"ess", "staleness", "abs_log_ratio_turn_0", "abs_log_ratio_lag_0"} <= metrics.keys()
    assert ("sft_loss" in metrics) == (name == "mixed")
    recipe = read_recipe(run.run / "recipe.yaml")
    with Ledger(run.run, read_only=True) as ledger:
        replayed = [each for number, _ in steps for each in replay_stored(ledger, recipe, number)]
    assert replayed
    for each in replayed:
        assert each.differences == ()
        assert each.loss == pytest.approx(each.stored_loss, abs=1e-6)
