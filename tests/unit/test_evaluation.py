"""Estimates against closed forms, and outcomes that never become a number."""

import itertools
import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palaestra.agents.engine import PolicyVersion
from palaestra.agents.evaluation import mean_interval, pass_at_k, pass_hat_k, rate_interval, summarize
from palaestra.agents.tokengraph import TokenGraph
from palaestra.agents.trajectory import EpisodeKey, Group, Trajectory
from palaestra.envs import Episode, Failed, Outcome, Scored, StopReason, Ungraded


def group(task_id: str, *outcomes: Outcome) -> Group:
    members = [
        Trajectory(
            key=EpisodeKey(split="test", epoch=0, task_id=task_id, sample=sample),
            version=PolicyVersion(0),
            episode=Episode(task_id=task_id, seed=0, messages=(), stop=StopReason.DONE),
            graph=TokenGraph(),
            outcome=outcome,
        )
        for sample, outcome in enumerate(outcomes)
    ]
    return Group(task_id=task_id, members=tuple(members))


WIN, LOSS = Scored(reward=1.0), Scored(reward=0.0)
NO_GRADE, BROKEN = Ungraded(reason="timeout"), Failed(stage="step", cause="X", retryable=True)


@given(st.integers(1, 9), st.data())
def test_pass_at_k_and_pass_hat_k_equal_enumeration(n: int, data: st.DataObject) -> None:
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    draws = list(itertools.combinations([True] * c + [False] * (n - c), k))
    assert math.isclose(pass_at_k(n, c, k), sum(map(any, draws)) / len(draws), abs_tol=1e-12)
    assert math.isclose(pass_hat_k(n, c, k), sum(map(all, draws)) / len(draws), abs_tol=1e-12)


def test_a_rate_with_one_sample_a_task_has_wilsons_interval() -> None:
    found = rate_interval([1.0] * 8 + [0.0] * 2)
    assert found.value == 0.8
    # Wilson's interval for 8 of 10 is [0.490, 0.943]; the variance here divides by n - 1, not n.
    assert found.low == pytest.approx(0.490, abs=0.02)
    assert found.high == pytest.approx(0.943, abs=0.02)


def test_siblings_do_not_make_an_interval_narrower() -> None:
    one = rate_interval([1.0, 0.0] * 20)
    assert rate_interval([1.0, 0.0] * 20) == one
    assert rate_interval([0.5, 0.5] * 20).high < one.high


def test_unanimous_tasks_still_leave_doubt() -> None:
    assert rate_interval([1.0] * 10).low < 0.8
    assert rate_interval([1.0] * 10).high == 1.0


def test_the_mean_interval_is_students_with_a_task_at_each_end_of_the_range() -> None:
    found = mean_interval([0.0, 1.0, 2.0, 3.0], (-2.0, 5.0))
    half = 2.571 * math.sqrt(29.5 / 5 / 6)  # t of 5 degrees; -2 and 5 beside the four
    assert (found.value, found.low, found.high) == pytest.approx((1.5, 1.5 - half, 1.5 + half), abs=0.01)


@pytest.mark.parametrize("mean", [0.0, 0.3, 1.0])
def test_one_task_says_nothing_about_the_mean_reward(mean: float) -> None:
    found = mean_interval([mean], (0.0, 1.0))
    assert (found.value, found.low, found.high) == (mean, 0.0, 1.0)


def test_a_range_without_an_end_leaves_the_interval_to_the_tasks() -> None:
    found = mean_interval([0.0, 1.0, 2.0, 3.0], (-math.inf, math.inf))
    half = 3.182 * math.sqrt(5 / 3 / 4)  # t of 3 degrees
    assert (found.value, found.low, found.high) == pytest.approx((1.5, 1.5 - half, 1.5 + half), abs=0.05)
    assert mean_interval([0.5], (0.0, math.inf)).high == math.inf


def test_a_reward_outside_the_declared_range_widens_the_bounds() -> None:
    found = summarize("test", [group("a", Scored(reward=-1.0), NO_GRADE), group("b", WIN)], (0.0, 1.0))
    assert found.bounds == pytest.approx((-1 / 3, 1 / 3)) and found.reward is not None
    assert found.reward.low <= found.reward.value == 0.0


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=30))
def test_a_mean_interval_is_within_the_range_around_the_mean_and_never_a_point(means: list[float]) -> None:
    found = mean_interval([4 * mean - 1 for mean in means], (-1.0, 3.0))
    assert -1.0 <= found.low <= found.value <= found.high <= 3.0
    assert found.high - found.low > 1.0 / len(means)


def test_mean_intervals_hold_the_truth_as_often_as_they_say() -> None:
    chance = random.Random(0)
    draws: list[tuple[Callable[[], float], float]] = [
        (lambda: float(chance.random() < 0.05), 0.05),
        (lambda: chance.betavariate(8, 2), 0.8),
        (lambda: chance.choice((0.3, 0.31)), 0.305),
    ]
    for draw, truth in draws:
        for size in (2, 5, 20, 100):
            found = [mean_interval([draw() for _ in range(size)], (0.0, 1.0)) for _ in range(400)]
            assert sum(each.low <= truth <= each.high for each in found) > 0.92 * 400


def test_what_has_no_number_is_counted_and_bounded_and_in_no_mean() -> None:
    found = summarize("test", [group("a", WIN, NO_GRADE), group("b", LOSS, BROKEN)], (0.0, 1.0))
    assert found.outcomes == {"scored": 2, "ungraded": 1, "failed": 1}
    assert found.reward is not None and found.reward.value == 0.5
    assert found.bounds == (0.25, 0.75)
    assert found.pass_at[1].value == 0.5


def test_an_evaluation_without_a_single_grade_has_no_reward() -> None:
    found = summarize("test", [group("a", NO_GRADE), group("b", BROKEN)], (-1.0, 1.0))
    assert found.reward is None
    assert found.pass_at == {}
    assert found.bounds == (-1.0, 1.0)


def test_a_task_without_a_grade_is_left_out_of_the_rates_not_counted_as_lost() -> None:
    found = summarize("test", [group("a", WIN), group("b", BROKEN)], (0.0, 1.0))
    assert found.pass_at[1].value == 1.0
