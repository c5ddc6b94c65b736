"""What a step reports, and what it computes for that."""

import math

import pytest
from support import run_async
from trainer_builders import make_group, make_learner

from palaestra.agents.engine import PolicyVersion
from palaestra.agents.engines.scripted import ScriptedEngine, in_turn
from palaestra.trainer.advantages import credit
from palaestra.trainer.publisher import Publisher
from palaestra.trainer.recipe import GrpoSection
from palaestra.trainer.update import Updater, over_updates


def test_over_updates_maxima_stay_maxima_tokens_add_up_and_means_are_over_tokens() -> None:
    first = {"loss": 1.0, "ratio": 1.0, "ratio_max": 9.0, "staleness_max": 0.0, "trained_tokens": 300.0}
    second = {"loss": 2.0, "ratio": 2.0, "ratio_max": 3.0, "staleness_max": 4.0, "trained_tokens": 100.0}
    assert over_updates([first, second]) == {
        "loss": 1.5,
        "ratio": 1.25,
        "ratio_max": 9.0,
        "staleness_max": 4.0,
        "trained_tokens": 400.0,
    }
    assert over_updates([]) == {}


@pytest.mark.parametrize("order", [1, -1])
def test_a_maximum_of_what_is_no_number_is_none_in_either_order(order: int) -> None:
    maxima = [{"ratio_max": each, "trained_tokens": 1.0} for each in (math.nan, 1.0)][::order]
    assert math.isnan(over_updates(maxima)["ratio_max"])


@pytest.mark.parametrize(
    ("options", "is_computed"),
    [
        ({}, False),
        ({"reference": True}, True),
        ({"kl_coefficient": 0.1}, True),
        ({"kl_coefficient": 0.1, "kl_kind": "k1"}, True),
    ],
)
def test_the_reference_policy_is_asked_where_something_uses_it(
    options: dict[str, float], is_computed: bool
) -> None:
    learner = make_learner()
    updater = Updater(learner=learner, section=GrpoSection.model_validate({"updates_per_step": 2} | options))
    update = updater.update(credit(make_group(1.0, 0.0, 0.25, 0.0)).accepted)
    assert (learner.reference is not None) is is_computed
    assert ("kl" in update.metrics) is is_computed
    assert update.metrics["trained_tokens"] == 8.0


def test_a_drift_that_nobody_measured_is_no_number() -> None:
    publisher = Publisher(make_learner(), ScriptedEngine(in_turn([[5, 2]])), adapters=None)
    run_async(publisher.publish(PolicyVersion(1)))
    assert publisher.drift is None
