"""Who is trained on: members and groups that are left out, credit of turns, and what leaving out does."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trainer_builders import make_graph, make_group, make_trajectory

from palaestra.agents.trajectory import Group, Trajectory
from palaestra.envs import Failed, Scored, StopReason, Ungraded
from palaestra.trainer.advantages import (
    GroupPolicy,
    Reason,
    advantage_names,
    credit,
    credit_step,
    load_advantage,
)
from palaestra.trainer.judge import judge
from palaestra.trainer.recipe import GrpoSection
from palaestra.trainer.reporting.metrics import bias_metrics, episode_metrics, judgement_metrics


def test_members_without_a_number_are_in_no_baseline() -> None:
    with_them = make_group(
        1.0,
        Ungraded(reason="timeout"),
        0.0,
        Failed(stage="policy", cause="EngineError", retryable=True),
        0.0,
    )
    found = credit(with_them, load_advantage("dr_grpo"))
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
    found = credit(group, load_advantage("dr_grpo"), GroupPolicy(truncated="drop"))
    assert [each.advantage for each in found.accepted] == [0.5, -0.5]
    assert [(each.reason, each.detail) for each in found.rejected] == [(Reason.TRUNCATED, "max_turns")]


def test_a_group_of_rewards_that_are_equal_but_for_rounding_is_dropped_and_counted() -> None:
    groups = [make_group(0.1 + 0.2, 0.3), make_group(1.0, 0.0)]
    groups[1] = replace(groups[1], members=tuple(_of_task(member, "u") for member in groups[1].members))
    found = judge(groups, GrpoSection(), seed=0, step=0)
    assert [each.reason for each in found.rejected] == [Reason.ZERO_VARIANCE] * 2
    assert judgement_metrics(found)["zero_variance_share"] == 0.5


def _of_task(member: Trajectory, task_id: str) -> Trajectory:
    return replace(member, key=replace(member.key, task_id=task_id))


def test_a_group_without_a_sampled_token_is_dropped_by_opo_and_does_not_end_the_run() -> None:
    members = tuple(make_trajectory(at, reward, graph=make_graph()) for at, reward in enumerate((1.0, 0.0)))
    for section in (
        GrpoSection(advantage="opo"),
        GrpoSection(advantage="weighted", advantage_options={"parts": {"opo": 1.0}}),
    ):
        found = judge([Group(task_id="t", members=members)], section, seed=0, step=0)
        assert [each.reason for each in found.rejected] == [Reason.ZERO_VARIANCE] * 2


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


@pytest.mark.parametrize("name", sorted({*advantage_names()} - {"weighted", "max_rl"}))
def test_rewards_of_any_size_make_finite_advantages_or_a_rejection(name: str) -> None:
    advantage = load_advantage(name, **({"k": 2, "threshold": 0.5} if name == "pass_at_k" else {}))
    large = credit(make_group(1e30, -1e30, 0.0), advantage)
    assert all(math.isfinite(each.advantage) for each in large.accepted) and len(large.accepted) == 3
    over = credit(make_group(1.7e308, -1.7e308, 0.0), advantage)
    assert over.accepted == () and {each.reason for each in over.rejected} == {Reason.OVERFLOW}
    assert over.rejected[0].detail == "a reward of 1.7e+308"


def test_a_policy_may_drop_the_whole_group_with_a_lost_member() -> None:
    group = make_group(1.0, Ungraded(reason="crash"), 0.0)
    found = credit(group, policy=GroupPolicy(lost="group"))
    assert [each.reason for each in found.rejected] == [
        Reason.UNGRADED,
        Reason.LOST_SIBLING,
        Reason.LOST_SIBLING,
    ]
    assert found.rejected[-1].detail == "1 of 3 members were lost"


def test_a_group_smaller_than_the_algorithm_needs_is_dropped() -> None:
    found = credit(make_group(1.0, 0.0, 0.0), load_advantage("pass_at_k", k=4))
    assert {(each.reason, each.detail) for each in found.rejected} == {
        (Reason.SMALL_GROUP, "3 of 4 members with a number")
    }


def test_a_batch_baseline_sees_every_group_and_none_of_the_lost() -> None:
    groups = [make_group(1.0, 1.0), make_group(0.0, Ungraded(reason="x"), 0.0), make_group(5.0)]
    found = credit_step(groups, load_advantage("reinforce_pp", normalise=False))
    assert [each.advantage for each in found.accepted] == [0.5, 0.5, -0.5, -0.5]
    assert [each.reason for each in found.rejected] == [Reason.UNGRADED, Reason.SMALL_GROUP]


# --- turns ---


def two_turns(sample: int, reward: float, turns: tuple[float, ...] = ()) -> Trajectory:
    graph = make_graph(([1], [2]), ([1, 2, 3], [4]))
    return make_trajectory(sample, Scored(reward=reward, turns=turns), graph=graph)


def group_of(*members: Trajectory) -> Group:
    return Group(task_id="t", members=members)


def test_turn_rewards_are_the_graders_then_the_steps_then_the_reward_at_the_end() -> None:
    advantage = load_advantage("monte_carlo", baseline="none", gamma=0.5)
    graded = two_turns(0, 9.0, turns=(1.0, 2.0))
    stepped = two_turns(1, 3.0)
    stepped = replace(stepped, episode=replace(stepped.episode, rewards=(1.0, 2.0)))
    other_sum = replace(stepped, outcome=Scored(reward=8.0))
    found = credit(group_of(graded, stepped, other_sum), advantage)
    assert [each.turns for each in found.accepted] == [(2.0, 2.0), (2.0, 2.0), (4.0, 8.0)]
    assert [each.advantage for each in found.accepted] == [2.0, 2.0, 6.0]


def test_turn_advantages_of_equal_rewards_still_teach() -> None:
    group = group_of(two_turns(0, 1.0, (1.0, 0.0)), two_turns(1, 1.0, (0.0, 1.0)))
    assert credit(group).accepted == ()
    found = credit(group, load_advantage("turn_groups", gamma=0.0, normalise=False))
    assert [each.turns for each in found.accepted] == [(0.5, -0.5), (-0.5, 0.5)]


def test_an_episode_whose_turns_do_not_match_its_calls_is_left_out_with_the_numbers() -> None:
    group = group_of(two_turns(0, 1.0, (1.0, 0.0)), two_turns(1, 1.0, (0.0, 1.0, 0.0)))
    found = credit(group, load_advantage("monte_carlo"))
    assert [(each.reason, each.detail) for each in found.rejected] == [
        (Reason.NO_TURNS, "3 advantages for 2 calls of the engine"),
        (Reason.SMALL_GROUP, "1 of 2 members with a number"),
    ]
    assert found.accepted == ()


@pytest.mark.parametrize("name", ["monte_carlo", "turn_groups"])
def test_an_episode_whose_turns_do_not_match_its_calls_is_in_no_baseline(name: str) -> None:
    fit = [two_turns(sample, reward, (0.0, reward)) for sample, reward in ((0, 1.0), (1, 3.0))]
    group = group_of(*fit, two_turns(2, 50.0, (0.0, 50.0, 0.0)))
    advantage = load_advantage(name, normalise=False)
    found = credit(group, advantage)
    assert [each.turns for each in found.accepted] == [(-1.0, -1.0), (1.0, 1.0)]
    assert [(each.key.sample, each.reason) for each in found.rejected] == [(2, Reason.NO_TURNS)]

    with_it = credit(group, advantage, GroupPolicy(lost="group"))
    reasons = [Reason.NO_TURNS, Reason.LOST_SIBLING, Reason.LOST_SIBLING]
    assert with_it.accepted == () and [each.reason for each in with_it.rejected] == reasons


# --- rewards that are not finite ---


@pytest.mark.parametrize("reward", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("name", ["grpo", "monte_carlo", "reinforce_pp"])
def test_a_member_without_a_finite_reward_is_lost_wherever_it_stands(
    name: str, place: int, reward: float
) -> None:
    rewards = [1.0, 0.0]
    rewards.insert(place, reward)
    group = make_group(*rewards)
    found = credit(group, load_advantage(name, normalise=False))
    assert [each.advantage for each in found.accepted] == [0.5, -0.5]
    assert [(each.key.sample, each.reason, each.detail) for each in found.rejected] == [
        (place, Reason.NOT_FINITE, f"a reward of {reward:g}")
    ]
    assert credit(group, policy=GroupPolicy(lost="group")).accepted == ()


def test_a_turn_without_a_finite_reward_loses_its_member() -> None:
    group = group_of(*(two_turns(at, 1.0, (0.0, each)) for at, each in enumerate((1.0, math.nan, 3.0))))
    found = credit(group, load_advantage("monte_carlo"))
    assert [each.turns for each in found.accepted] == [(-1.0, -1.0), (1.0, 1.0)]
    assert [(each.key.sample, each.reason) for each in found.rejected] == [(1, Reason.NOT_FINITE)]


def test_members_without_a_finite_reward_are_counted_and_in_no_mean() -> None:
    groups = [make_group(math.nan, 1.0, 0.0, 1.0)]
    judgement = judge(groups, GrpoSection(steps=1), seed=0, step=0)
    counts = judgement_metrics(judgement)
    assert (counts["accepted"], counts["rejected_not_finite"]) == (3, 1)
    found = bias_metrics(groups, judgement, (-1.0, 1.0))
    assert found == pytest.approx(
        {"lost_share": 1 / 4, "reward_kept": 2 / 3, "reward_lower": 1 / 4, "reward_upper": 3 / 4}
    )
    assert episode_metrics(groups, 1.0)["reward"] == pytest.approx(2 / 3)


def test_shuffled_rewards_fall_on_the_last_turn_so_that_nobody_is_left_out_for_its_length() -> None:
    """The control experiment trains on every episode: turns that another one earned say nothing of it."""
    short = make_trajectory(0, Scored(reward=1.0, turns=(1.0,)))
    long = [two_turns(sample, 0.5 * sample, (0.5 * sample, 0.0)) for sample in range(1, 6)]
    section = GrpoSection(
        steps=1, shuffle_rewards=True, advantage="monte_carlo", advantage_options={"baseline": "none"}
    )
    found = judge([group_of(short, *long)], section, seed=0, step=0)
    assert found.rejected == () and len(found.accepted) == 6
    rewards = [each.trajectory.reward for each in found.accepted]
    assert sorted(map(float, filter(None, rewards))) == [0.5, 1.0, 1.0, 1.5, 2.0, 2.5]
    assert rewards != [1.0, 0.5, 1.0, 1.5, 2.0, 2.5]
    for each in found.accepted:
        assert each.turns == (each.trajectory.reward,) * len(each.turns)


# --- the bias of leaving out ---


def test_the_bias_of_leaving_out_is_reported_with_the_lost_at_the_floor_and_at_the_maximum() -> None:
    equal = [replace(m, key=replace(m.key, epoch=1)) for m in make_group(0.5, 0.5).members]
    groups = [make_group(1.0, Ungraded(reason="x"), 0.0, 0.0), group_of(*equal)]
    found = bias_metrics(groups, judge(groups, GrpoSection(steps=1), seed=0, step=0), (-1.0, 1.0))
    assert found == pytest.approx(
        {"lost_share": 1 / 6, "reward_kept": 2 / 5, "reward_lower": 1 / 6, "reward_upper": 3 / 6}
    )


def test_without_bounds_or_numbers_only_what_is_known_is_reported() -> None:
    groups = [make_group(Ungraded(reason="x"))]
    found = bias_metrics(groups, judge(groups, GrpoSection(steps=1), seed=0, step=0), (-math.inf, math.inf))
    assert found == {"lost_share": 1.0}
