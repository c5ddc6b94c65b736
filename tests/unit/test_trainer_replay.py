"""A step computed again from its record."""

import json
import math
import re
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
from trainer_builders import make_graph, make_group, make_llama_learner, make_row, make_trajectory

from palaestra.agents.tokengraph import TokenGraph
from palaestra.agents.trajectory import Group
from palaestra.trainer.advantages import Accepted, credit, load_advantage
from palaestra.trainer.batches.rows import training_rows
from palaestra.trainer.config import LearnerConfig, LoraConfig
from palaestra.trainer.losses import loss_names
from palaestra.trainer.recipe import GrpoSection
from palaestra.trainer.reporting.replay import Replayed, replay_step
from palaestra.trainer.schedule import OptimizerConfig
from palaestra.trainer.update import Updater

SECTION = GrpoSection(
    steps=1, updates_per_step=2, aggregation="episode", kl_coefficient=0.2, loss_options={"clip_high": 0.5}
)


@pytest.fixture(scope="module")
def step() -> tuple[tuple[Accepted, ...], dict[str, Any]]:
    """Episodes and the record of a step on them, as the run file gives it back."""
    accepted = credit(make_group(1.0, 0.0, 0.25, 0.0, 1.0)).accepted
    update = Updater(learner=make_llama_learner(), section=SECTION).update(accepted)
    return accepted, json.loads(json.dumps(update.record))


def test_the_loss_of_every_update_is_found_again_without_the_model(
    step: tuple[tuple[Accepted, ...], dict[str, Any]],
) -> None:
    replayed = replay_step(step[0], SECTION, step[1])
    assert len(replayed) == 2
    for each in replayed:
        assert each.differences == ()
        assert each.loss == pytest.approx(each.stored_loss, rel=1e-6, abs=1e-6)
        assert abs(each.loss) > 1e-3


def test_of_large_rewards_the_loss_differs_by_its_rounding_and_is_found_again() -> None:
    """What float32 leaves of a sum of hundreds is off by over 1e-6."""
    rewards = [500.0 * (at * 7 % 3) for at in range(16)]
    section = GrpoSection(steps=1, advantage="dr_grpo", correction=None, updates_per_step=2)
    accepted = credit(make_group(*rewards), load_advantage("dr_grpo")).accepted
    learner = make_llama_learner(LearnerConfig(optimizer=OptimizerConfig(lr=1e-2)))
    record = json.loads(json.dumps(Updater(learner=learner, section=section).update(accepted).record))
    first, second = replay_step(accepted, section, record)
    assert first.is_same and second.is_same
    assert second.scale > 1000 and abs(second.loss - second.stored_loss) > 1e-5
    assert not replace(second, stored_loss=second.stored_loss * (1 + 1e-5)).is_same


@pytest.mark.parametrize(
    ("loss", "stored", "scale", "expected"),
    [
        (0.5, 0.5 + 9e-7, 0.1, True),
        (0.5, 0.5 + 2e-6, 0.1, False),
        (0.5, 0.5 + 2e-6, 3.0, True),
        (math.inf, math.inf, math.inf, True),
        (-math.inf, math.inf, math.inf, False),
        (math.inf, 3.0, math.inf, False),
        (math.nan, math.nan, math.nan, True),
        (math.nan, 3.0, math.nan, False),
        (3.0, math.nan, 1.0, False),
    ],
)
def test_losses_are_close_by_the_scale_of_what_they_are_made_of(
    loss: float, stored: float, scale: float, expected: bool
) -> None:
    assert Replayed(loss=loss, stored_loss=stored, scale=scale).is_same is expected
    assert not Replayed(loss=loss, stored_loss=stored, scale=scale, differences=("x",)).is_same


SECTIONS: list[dict[str, Any]] = [
    *({"loss": loss, "aggregation_tokens": 8 if loss == "dr_grpo" else None} for loss in loss_names()),
    {"loss_options": {"level": "episode", "dual_clip": 3.0}, "correction": {"level": "episode", "high": 1.1}},
    {"old_policy": "engine", "kl_coefficient": 0.2, "kl_kind": "k2"},
    {"kl_coefficient": 0.2, "kl_kind": "k1"},
    {"entropy_coefficient": 0.3, "aggregation": "turn"},
    {"sft_coefficient": 0.5, "sft_batch": 2, "aggregation": "prompt", "correction": None},
    {"advantage": "turn_groups", "advantage_options": {"normalise": False}},
]


@pytest.mark.parametrize("options", SECTIONS, ids=str)
def test_every_objective_is_found_again_from_its_record(options: dict[str, Any]) -> None:
    section = GrpoSection(steps=1, updates_per_step=2, **options)
    advantage = load_advantage(section.advantage, **section.advantage_options)
    accepted = credit(make_group(1.0, 0.0, 0.25, 0.0, 1.0), advantage).accepted
    learner = make_llama_learner(LearnerConfig(optimizer=OptimizerConfig(lr=1e-2)))
    shown = [make_row([7, 8, 9], [False, True, True]), make_row([7, 5], [False, True], sample=1)]
    update = Updater(learner=learner, section=section, demonstrations=shown).update(accepted, step=3)
    record = json.loads(json.dumps(update.record))
    for each in replay_step(accepted, section, record):
        assert each.differences == ()
        assert each.loss == pytest.approx(each.stored_loss, rel=1e-6, abs=1e-6)
    del record["updates"][1]["rows"][0]["logprobs"][0]
    assert "logprobs in the record" in replay_step(accepted, section, record)[1].differences[0]


def test_the_second_update_is_measured_from_the_learner_before_the_first() -> None:
    accepted = credit(make_group(1.0, 0.0, 0.25, 0.0, 1.0)).accepted
    learner = make_llama_learner(LearnerConfig(optimizer=OptimizerConfig(lr=1e-2)))
    before = learner.logprobs(training_rows(accepted[1::2]))
    record = (
        Updater(learner=learner, section=GrpoSection(steps=1, updates_per_step=2)).update(accepted).record
    )
    first, second = record["updates"]
    assert first["is_fresh"] and not second["is_fresh"]
    for row, stored, old in zip(training_rows(accepted[1::2]), second["rows"], before, strict=True):
        assert stored["old_logprobs"] == [old[at] for at in row.trained]
        assert stored["old_logprobs"] != stored["logprobs"]


def test_demonstrations_are_drawn_by_seed_and_step_so_that_a_resumed_run_draws_the_same() -> None:
    shown = [make_row([7, token], [False, True], sample=token) for token in range(20)]
    section = GrpoSection(steps=1, sft_coefficient=1.0, sft_batch=3)

    def keys(step: int) -> Any:
        updater = Updater(learner=make_llama_learner(), section=section, demonstrations=shown, seed=5)
        update = updater.update(credit(make_group(1.0, 0.0)).accepted, step=step)
        assert update.metrics["sft_loss"] > 0
        return update.record["updates"][0]["sft"]["keys"]

    assert keys(0) == keys(0) != keys(1)
    with pytest.raises(ValueError, match="there are no demonstrations"):
        Updater(learner=make_llama_learner(), section=section)


@pytest.mark.parametrize("name", ["key", "positions", "advantages"])
def test_an_altered_row_is_reported(step: tuple[tuple[Accepted, ...], dict[str, Any]], name: str) -> None:
    record = deepcopy(step[1])
    record["updates"][1]["rows"][0][name][0] = 9
    first, second = replay_step(step[0], SECTION, record)
    assert first.differences == ()
    assert len(second.differences) == 1 and f": {name} in the record" in second.differences[0]


@pytest.mark.parametrize("name", ["logprobs", "ref_logprobs"])
def test_an_altered_logprob_is_reported_and_would_change_the_loss(
    step: tuple[tuple[Accepted, ...], dict[str, Any]], name: str
) -> None:
    record = deepcopy(step[1])
    row = record["updates"][0]["rows"][0]
    row[name][0] -= 0.5
    (difference,) = replay_step(step[0], SECTION, record)[0].differences
    assert difference == f"{step[0][0].trajectory.key}: {name} in the record are not those that were written"
    del row["digests"]  # as in run files of before
    found = replay_step(step[0], SECTION, record)[0]
    assert found.differences == () and abs(found.loss - found.stored_loss) > 1e-4


def test_an_altered_value_that_no_loss_shows_is_reported_too(
    step: tuple[tuple[Accepted, ...], dict[str, Any]],
) -> None:
    accepted, record = list(step[0]), deepcopy(step[1])
    at = record["updates"][1]["rows"][0]
    at["old_logprobs"][0] -= 100.0  # its ratio was clipped already, or is now
    altered = replace(accepted[0].trajectory, graph=make_graph(([2, 2], [3, 4])))
    accepted[0] = replace(accepted[0], trajectory=altered)
    first, second = replay_step(accepted, SECTION, record)
    assert first.differences == (f"{altered.key}: tokens of the episode are not those that were trained",)
    assert [text.partition(": ")[2].split()[0] for text in second.differences] == ["old_logprobs"]


LEARNERS = {
    "full": LearnerConfig(optimizer=OptimizerConfig(lr=1e-2)),
    "lora": LearnerConfig(optimizer=OptimizerConfig(lr=1e-2), lora=LoraConfig(rank=4)),
    "shared": LearnerConfig(optimizer=OptimizerConfig(lr=1e-2), share_prefixes_from=2),
    "shared lora": LearnerConfig(
        optimizer=OptimizerConfig(lr=1e-2), lora=LoraConfig(rank=4), share_prefixes_from=2
    ),
    "short lines": LearnerConfig(optimizer=OptimizerConfig(lr=1e-2), micro_batch_tokens=8),
}


def forked(sample: int) -> TokenGraph:
    """Two turns in one row, and a third that forks: all rows of a group begin alike."""
    begin = [1, 2, 3, 4]
    return make_graph((begin, [5, sample]), ([*begin, 5, sample, 7], [8, 9]), ([*begin[:3], 7], [6, 5, 4]))


@pytest.mark.parametrize("loss", ["ppo_clip", "gspo", "cispo", "sapo", "dppo_tv"])
@pytest.mark.parametrize("learner", LEARNERS)
def test_the_losses_are_found_again_however_the_learner_made_them(learner: str, loss: str) -> None:
    members = tuple(
        make_trajectory(sample, reward, graph=forked(sample))
        for sample, reward in enumerate((1.0, 0.0, 0.25, 0.5))
    )
    accepted = credit(Group(task_id="t", members=members)).accepted
    section = GrpoSection(steps=1, updates_per_step=2, loss=loss, kl_coefficient=0.1)
    update = Updater(learner=make_llama_learner(LEARNERS[learner]), section=section).update(accepted)
    for each in replay_step(accepted, section, json.loads(json.dumps(update.record))):
        assert each.differences == ()
        assert each.loss == pytest.approx(each.stored_loss, rel=1e-6, abs=1e-6)


def test_an_update_that_was_left_out_is_counted() -> None:
    accepted = credit(make_group(1.0, 0.0)).accepted
    learner = make_llama_learner()
    section = GrpoSection(steps=1, loss="broken_losses:NoNumber")
    update = Updater(learner=learner, section=section).update(accepted)
    assert update.metrics["skipped"] == 1.0 and learner.num_steps == 0


@pytest.mark.parametrize(
    ("name", "value"), [("loss", "gspo"), ("loss_options", {"clip_high": 0.4}), ("kl_coefficient", 0.1)]
)
def test_a_step_of_another_objective_than_the_recipes_is_reported(
    step: tuple[tuple[Accepted, ...], dict[str, Any]], name: str, value: object
) -> None:
    """Its loss may be the same: of a policy that has not moved since it sampled, all are."""
    with pytest.raises(
        ValueError, match=rf"grpo\.{name} in the record: {re.escape(repr(value))}, in the run"
    ):
        replay_step(step[0], SECTION, {**step[1], name: value})


def test_a_missing_row_or_update_is_refused(step: tuple[tuple[Accepted, ...], dict[str, Any]]) -> None:
    record = deepcopy(step[1])
    record["updates"][0]["rows"].pop()
    with pytest.raises(ValueError, match="the record has 2 rows, the episodes make 3"):
        replay_step(step[0], SECTION, record)
    record["updates"].pop()
    with pytest.raises(ValueError, match="the record has 1 updates, the episodes make 2"):
        replay_step(step[0], SECTION, record)
