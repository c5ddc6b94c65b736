"""What a step reports, and what it computes for that."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import pytest
from support import run_async
from trainer_builders import make_group, make_learner, make_llama_learner, make_row, make_trajectory

from palaestra.agents.engine import Finish, Generation, PolicyVersion, VersionSpan
from palaestra.agents.engines.scripted import ScriptedEngine, in_turn
from palaestra.agents.tokengraph import TokenGraph
from palaestra.agents.trajectory import Group, Trajectory
from palaestra.trainer.advantages import credit
from palaestra.trainer.publisher import Publisher
from palaestra.trainer.recipe import GrpoSection
from palaestra.trainer.reporting.reports import LossReport, merge_reports
from palaestra.trainer.update import Update, Updater, engine_gap_max, over_updates


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
    parts = [
        LossReport(loss=0.0, num_rows=1, num_tokens=1, metrics=metrics, logprobs=((),), entropies=((),))
        for metrics in ({"ratio_max": each["ratio_max"]} for each in maxima)
    ]
    assert math.isnan(merge_reports(parts, [[0], [1]]).metrics["ratio_max"])
    row = make_row([7, 8, 9], [False, True, True], logprobs=[0.0, -1.0, -1.0])
    assert math.isnan(engine_gap_max([row], [(0.0, *(math.nan, -1.0)[::order])]))


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


@dataclass(frozen=True)
class Told:
    """What the record of a step says of a token."""

    gap: float
    turn: int
    lag: int


def told(update: Update, members: Sequence[Trajectory], step: int) -> list[Told]:
    """Every trained token of a step, from its record and the episodes; a call's place is its turn."""
    found: list[Told] = []
    for row in (row for each in update.record["updates"] for row in each["rows"]):
        (member,) = (each for each in members if list(each.key.columns) == list(row["key"]))
        calls = [call for segment in member.graph.segments for call in segment.calls]
        sampled = [
            (logprob, turn, step - call.versions[0].version)
            for turn, call in enumerate(calls)
            for logprob in call.logprobs
        ]
        found += [
            Told(gap=logprob - engine, turn=turn, lag=lag)
            for logprob, (engine, turn, lag) in zip(row["logprobs"], sampled, strict=True)
        ]
    return found


def two_turns(sample: int, reward: float, sizes: tuple[int, int]) -> Trajectory:
    """An episode of two answers, the second one of an older policy."""
    seen, graph = [1, 2], TokenGraph()
    for turn, size in enumerate(sizes):
        ids = tuple((7 * sample + 3 * turn + at) % 30 + 3 for at in range(size))
        span = VersionSpan(version=PolicyVersion(4 - 2 * turn), start=0, end=size)
        graph = graph.commit(
            seen,
            Generation(
                ids=ids,
                logprobs=tuple(-3.0 - 0.5 * sample - 0.1 * at for at in range(size)),
                versions=(span,),
                finish=Finish.STOP,
            ),
        )
        seen = [*seen, *ids, 2]
    return make_trajectory(sample, reward, graph=graph)


def test_what_is_told_by_turn_and_lag_is_over_the_tokens_of_all_updates_together() -> None:
    sizes = ((9, 1), (1, 8), (7, 2), (2, 9))  # the first update has most of the first turn's tokens
    members = [two_turns(at, float(at % 3), each) for at, each in enumerate(sizes)]
    section = GrpoSection(updates_per_step=2, zero_variance="keep")
    updater = Updater(learner=make_llama_learner(), section=section)
    update = updater.update(credit(Group(task_id="t", members=tuple(members))).accepted, step=5)
    tokens = told(update, members, step=5)
    assert len(update.record["updates"]) == 2 and len(tokens) == sum(map(sum, sizes))
    expected = {
        f"{name}_{place}": fmean(abs(token.gap) for token in tokens if getattr(token, name) == place)
        for name, places in (("turn", (0, 1)), ("lag", (1, 3)))
        for place in places
    }
    by = {name: value for name, value in update.metrics.items() if name.startswith("abs_log_ratio_")}
    assert by == pytest.approx({f"abs_log_ratio_{name}": value for name, value in expected.items()})
    weights = [math.exp(token.gap) for token in tokens]
    ess = sum(weights) ** 2 / (len(weights) * sum(weight**2 for weight in weights))
    assert update.metrics["ess"] == pytest.approx(ess)
    assert update.metrics["staleness"] == pytest.approx(fmean(token.lag for token in tokens))
