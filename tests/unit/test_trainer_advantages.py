"""Advantages: closed forms, properties, and who is left out."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trainer_builders import make_group, make_trajectory

from palaestra.agents.trajectory import Group
from palaestra.envs import Failed, StopReason, Ungraded
from palaestra.trainer.advantages import AdvantageKind, GroupPolicy, Reason, advantages, credit

KINDS = list(AdvantageKind)
REWARDS = st.lists(st.integers(-1000, 1000).map(lambda n: n / 8), min_size=2, max_size=16)


def test_the_three_kinds_equal_their_formulas() -> None:
    rewards = [1.0, 0.0, 0.0, 0.0]
    assert advantages(rewards, AdvantageKind.DR_GRPO) == (0.75, -0.25, -0.25, -0.25)
    assert advantages(rewards, AdvantageKind.RLOO) == pytest.approx((1.0, -1 / 3, -1 / 3, -1 / 3))
    std = math.sqrt((0.75**2 + 3 * 0.25**2) / 3)
    assert advantages(rewards) == pytest.approx([each / (std + 1e-4) for each in (0.75, -0.25, -0.25, -0.25)])


def test_rloo_is_the_reward_minus_the_mean_of_the_others() -> None:
    rewards = [3.0, 1.0, 4.0, 1.5, 9.0]
    expected = [reward - (sum(rewards) - reward) / (len(rewards) - 1) for reward in rewards]
    assert advantages(rewards, AdvantageKind.RLOO) == pytest.approx(expected)


@given(REWARDS, st.sampled_from(KINDS))
def test_advantages_sum_to_zero_and_keep_the_order_of_rewards(
    rewards: list[float], kind: AdvantageKind
) -> None:
    found = advantages(rewards, kind)
    assert math.fsum(found) == pytest.approx(0, abs=1e-9 * max(1, *map(abs, found)) * len(found))
    for left in range(len(rewards)):
        for right in range(len(rewards)):
            if rewards[left] > rewards[right]:
                assert found[left] > found[right]


@given(REWARDS, st.integers(-100, 100), st.sampled_from(KINDS))
def test_a_shift_of_all_rewards_changes_nothing(
    rewards: list[float], shift: int, kind: AdvantageKind
) -> None:
    shifted = [reward + shift for reward in rewards]
    assert advantages(shifted, kind) == pytest.approx(advantages(rewards, kind), abs=1e-9)


@given(REWARDS, st.integers(1, 64))
def test_a_scale_scales_dr_grpo_and_rloo_and_hardly_touches_grpo(rewards: list[float], scale: int) -> None:
    scaled = [reward * scale for reward in rewards]
    for kind in (AdvantageKind.DR_GRPO, AdvantageKind.RLOO):
        expected = [each * scale for each in advantages(rewards, kind)]
        assert advantages(scaled, kind) == pytest.approx(expected, abs=1e-9)
    assert advantages(scaled) == pytest.approx(advantages(rewards), rel=5e-3)


@given(REWARDS, st.randoms(use_true_random=False), st.sampled_from(KINDS))
def test_the_order_of_members_does_not_matter(
    rewards: list[float], order: random.Random, kind: AdvantageKind
) -> None:
    index = list(range(len(rewards)))
    order.shuffle(index)
    found = advantages(rewards, kind)
    assert advantages([rewards[at] for at in index], kind) == pytest.approx([found[at] for at in index])


@pytest.mark.parametrize("kind", KINDS)
def test_equal_rewards_have_advantage_exactly_zero(kind: AdvantageKind) -> None:
    assert advantages([0.1] * 7, kind) == (0.0,) * 7


@pytest.mark.parametrize("rewards", [[], [1.0]])
def test_a_single_reward_is_no_advantage(rewards: list[float]) -> None:
    with pytest.raises(ValueError, match="2 or more"):
        advantages(rewards)


@pytest.mark.parametrize("reward", [math.nan, math.inf])
def test_a_reward_that_is_no_number_is_refused(reward: float) -> None:
    with pytest.raises(ValueError, match="not all finite"):
        advantages([1.0, reward])


@pytest.mark.parametrize("kind", KINDS)
def test_rewards_of_any_size_make_finite_advantages_or_a_rejection(kind: AdvantageKind) -> None:
    large = credit(make_group(1e30, -1e30, 0.0), kind)
    assert all(math.isfinite(each.advantage) for each in large.accepted) and len(large.accepted) == 3
    over = credit(make_group(1.7e308, -1.7e308, 0.0), kind)
    assert over.accepted == () and {each.reason for each in over.rejected} == {Reason.OVERFLOW}
    assert over.rejected[0].detail == "a reward of 1.7e+308"


def test_members_without_a_number_are_in_no_baseline() -> None:
    with_them = make_group(
        1.0,
        Ungraded(reason="timeout"),
        0.0,
        Failed(stage="policy", cause="EngineError", retryable=True),
        0.0,
    )
    found = credit(with_them, AdvantageKind.DR_GRPO)
    assert [each.advantage for each in found.accepted] == pytest.approx([2 / 3, -1 / 3, -1 / 3])
    assert [each.trajectory.key.sample for each in found.accepted] == [0, 2, 4]
    assert [(each.key.sample, each.reason, each.detail) for each in found.rejected] == [
        (1, Reason.UNGRADED, "timeout"),
        (3, Reason.FAILED, "policy: EngineError"),
    ]


def test_the_last_member_with_a_number_is_dropped_rather_than_trained_on_its_raw_reward() -> None:
    found = credit(make_group(1.0, Ungraded(reason="crash"), Ungraded(reason="crash")))
    assert found.accepted == ()
    assert [each.reason for each in found.rejected] == [Reason.UNGRADED, Reason.UNGRADED, Reason.SMALL_GROUP]
    assert found.rejected[-1].detail == "1 of 2 members with a number"


def test_a_group_under_the_recipes_minimum_is_dropped() -> None:
    found = credit(make_group(1.0, 0.0, 0.5), policy=GroupPolicy(min_size=4))
    assert [each.reason for each in found.rejected] == [Reason.SMALL_GROUP] * 3


def test_truncated_members_are_kept_or_dropped_as_the_policy_says() -> None:
    members = (
        make_trajectory(0, 1.0),
        make_trajectory(1, 0.0),
        make_trajectory(2, 0.0, stop=StopReason.MAX_TURNS),
    )
    group = Group(task_id="t", members=members)
    assert len(credit(group).accepted) == 3
    found = credit(group, AdvantageKind.DR_GRPO, GroupPolicy(truncated="drop"))
    assert [each.advantage for each in found.accepted] == [0.5, -0.5]
    assert [(each.reason, each.detail) for each in found.rejected] == [(Reason.TRUNCATED, "max_turns")]


def test_a_group_that_teaches_nothing_is_dropped_with_its_reason_or_kept_at_zero() -> None:
    group = make_group(0.5, 0.5, 0.5)
    assert [each.reason for each in credit(group).rejected] == [Reason.ZERO_VARIANCE] * 3
    kept = credit(group, policy=GroupPolicy(zero_variance="keep"))
    assert [each.advantage for each in kept.accepted] == [0.0] * 3


@given(st.lists(st.sampled_from([0.0, 1.0, None, "failed"]), max_size=8))
def test_every_member_is_accepted_or_rejected_once(outcomes: list[float | str | None]) -> None:
    group = make_group(
        *(
            Ungraded(reason="x")
            if outcome is None
            else Failed(stage="step", cause="x", retryable=False)
            if isinstance(outcome, str)
            else outcome
            for outcome in outcomes
        )
    )
    found = credit(group)
    keys = [each.trajectory.key for each in found.accepted] + [each.key for each in found.rejected]
    assert sorted(keys) == [member.key for member in group.members]


def test_a_minimum_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match="min_size is 1"):
        GroupPolicy(min_size=1)
