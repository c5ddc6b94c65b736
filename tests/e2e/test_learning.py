"""Whole runs whose optimum is known: a bandit in closed form, and a game of three turns."""

from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
import yaml
from command import SHAPE
from support import ROOT
from tokenizers import Tokenizer
from torch import Tensor
from trained_envs import Bandit
from trainings import Training, result

from palaestra.agents.ledger import Ledger
from palaestra.trainer.weights.model import load_model

pytestmark = pytest.mark.timeout(900)

SHARE = 0.95
"""Of the optimum: what must be reached."""

BANDIT: dict[str, Any] = {
    "name": "bandit",
    "threads": 1,
    "env": {"id": "trained_envs:Bandit", "held_out": 1},
    "model": {"tool_format": "none", "tiny": {**SHAPE, "max_context": 64}},
    "sampling": {"max_tokens": 1},
    "optimizer": {"lr": 2e-3, "schedule": "linear", "warmup_steps": 4, "betas": [0.9, 0.95]},
    "grpo": {
        "steps": 100,
        "tasks_per_step": 4,
        "group_size": 96,
        "updates_per_step": 4,
        "advantage": "rloo",
        "zero_variance": "keep",
        "kl_coefficient": 0.15,
    },
}
"""An answer is one token, so that a run's policy is a table; it begins with random weights."""


@dataclass(frozen=True, slots=True)
class Table:
    """A policy on one machine: all that it can say, and what that pays."""

    logprobs_V: Tensor
    rewards_V: Tensor
    """The mean of each."""

    @property
    def mean(self) -> float:
        return float((self.logprobs_V.exp() * self.rewards_V).sum())

    def divergence(self, other: "Table") -> float:
        """KL(self || other), nats."""
        return float((self.logprobs_V.exp() * (self.logprobs_V - other.logprobs_V)).sum())


def tables(run: Training, folder: str) -> dict[str, Table]:
    """What a model of the run does on each machine that it was trained on; nothing is sampled."""
    model: Any = load_model(run.run / folder)
    tokenizer = Tokenizer.from_file(str(run.run / folder / "tokenizer.json"))
    words = [tokenizer.decode([token]).strip() for token in range(tokenizer.get_vocab_size())]
    with Ledger(run.run, read_only=True) as ledger:
        members = {member.key.task_id: member for member in ledger.trajectories("train")}
    found: dict[str, Table] = {}
    for machine, member in members.items():
        prompt = torch.tensor([member.graph.segments[0].calls[0].prompt_ids])
        with torch.no_grad():
            logits_V = model(input_ids=prompt).logits[0, -1].double()
        pays = Bandit.pays(int(machine))
        rewards_V = torch.tensor([pays.get(word, 0.0) for word in words], dtype=torch.float64)
        found[machine] = Table(logits_V.log_softmax(0), rewards_V)
    return found


def trained(folder: Path, recipe: dict[str, Any], **grpo: Any) -> Training:
    run = Training(folder, recipe | {"grpo": recipe["grpo"] | grpo})
    assert run.start().wait() == 0, run.log()
    return run


def test_a_bandit_comes_within_5_percent_of_the_optimum_of_its_closed_form(tmp_path: Path) -> None:
    """max E[r] - beta * KL(pi || start) is beta * log Z, at pi = start * exp(r / beta) / Z."""
    beta = BANDIT["grpo"]["kl_coefficient"]
    run = trained(tmp_path, BANDIT)
    before, after = tables(run, "model"), tables(run, "policy")
    assert len(after) == 4
    for machine, start in before.items():
        tilted_V, end = start.logprobs_V + start.rewards_V / beta, after[machine]
        optimum = beta * float(tilted_V.logsumexp(0))
        assert start.mean < 0.1 * optimum
        assert end.mean - beta * end.divergence(start) >= SHARE * optimum
        off_V = end.logprobs_V.exp() - tilted_V.softmax(0)
        assert float(off_V.abs().sum()) / 2 < 0.15, "total variation"


def test_a_game_of_three_turns_is_won_as_often_as_the_best_play_does_off_policy(tmp_path: Path) -> None:
    """The best play wins always; four updates a batch are off policy enough for the clip to act."""
    recipe = yaml.safe_load((ROOT / "examples" / "number_guessing.yaml").read_text())
    found = result(trained(tmp_path, recipe))
    evaluations = found.summary["evaluations"]
    assert evaluations["baseline"]["reward"]["value"] < 0.2
    assert evaluations["warm-start"]["reward"]["value"] < 0.7
    assert evaluations["final"]["reward"]["value"] >= SHARE
    assert fmean(metrics["clip_fraction"] for metrics in found.metrics if "ratio" in metrics) > 0.01
