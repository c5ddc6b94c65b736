"""What an episode pays for its length, and episodes that are masked for theirs."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trainer_builders import make_graph, make_trajectory

from palaestra.agents.trajectory import Group, Trajectory
from palaestra.envs import AssistantMessage, Scored, StopReason, Ungraded, UserMessage
from palaestra.envs.message import Usage
from palaestra.trainer.advantages import GroupPolicy, Reason, credit, turn_rewards
from palaestra.trainer.judge import judge, overlong_of
from palaestra.trainer.overlong import Overlong
from palaestra.trainer.preflight import check_advantage
from palaestra.trainer.recipe import GrpoSection
from palaestra.trainer.recipe_file import RecipeError
from palaestra.trainer.reporting.metrics import (
    bias_metrics,
    episode_metrics,
    judgement_metrics,
    overlong_metrics,
)

DAPO = Overlong(max_tokens=20480, cache_tokens=4096)


def answer(sample: int, reward: float, num_tokens: int, *more: int, **fields: Any) -> Trajectory:
    """An episode whose answers have so many tokens."""
    prompt, calls = [1], list[tuple[list[int], list[int]]]()
    for number in (num_tokens, *more):
        calls.append((prompt, [2] * number))
        prompt = [*prompt, *calls[-1][1], 3]
    return make_trajectory(sample, reward, graph=make_graph(*calls), **fields)


def group_of(*members: Trajectory) -> Group:
    return Group(task_id="t", members=members)


def section(**fields: Any) -> GrpoSection:
    return GrpoSection.model_validate({"overlong": {"max_tokens": 10, "cache_tokens": 4}, **fields})


@pytest.mark.parametrize(
    ("num_tokens", "penalty"),
    [(0, 0.0), (16384, 0.0), (16385, -1 / 4096), (18432, -0.5), (20480, -1.0), (20481, -1.0), (10**9, -1.0)],
)
def test_the_penalty_is_that_of_the_paper_at_the_lengths_of_the_paper(
    num_tokens: int, penalty: float
) -> None:
    assert DAPO(num_tokens) == penalty


@given(st.integers(1, 50), st.integers(0, 50), st.integers(0, 200), st.floats(0.1, 10))
def test_the_penalty_falls_in_a_straight_line_and_stays_within_its_weight(
    cache: int, free: int, num: int, weight: float
) -> None:
    overlong = Overlong(max_tokens=free + cache, cache_tokens=cache, weight=weight)
    assert overlong(num) == pytest.approx(-weight * min(max(num - free, 0) / cache, 1))


@pytest.mark.parametrize("cache", [0, 21])
def test_a_cache_that_is_no_part_of_the_length_is_refused(cache: int) -> None:
    with pytest.raises(
        ValueError, match=f"Overlong.cache_tokens is {cache}; it must be from 1 to max_tokens=20"
    ):
        Overlong(max_tokens=20, cache_tokens=cache)


def test_long_episodes_are_worth_less_to_the_loss_and_as_much_to_the_report() -> None:
    group = group_of(answer(0, 1.0, 6), answer(1, 1.0, 5, 3), answer(2, 0.0, 12))
    assert (
        judge([group], section(overlong=None, advantage="dr_grpo"), seed=0, step=0).accepted[1].advantage > 0
    )
    found = judge([group], section(advantage="dr_grpo"), seed=0, step=0)
    shaped = [1.0, 0.5, -1.0]
    mean = sum(shaped) / 3
    assert [each.advantage for each in found.accepted] == pytest.approx([value - mean for value in shaped])
    overlong = overlong_of(section())
    assert overlong is not None and overlong_metrics([group], overlong) == pytest.approx(
        {
            "reward_shaped": mean,
            "reward_shaped_min": -1.0,
            "reward_shaped_max": 1.0,
            "overlong_penalty": -0.5,
            "overlong_share": 2 / 3,
        }
    )
    assert bias_metrics([group], found, (0.0, 1.0))["reward_kept"] == pytest.approx(2 / 3)
    assert overlong_metrics([group_of(make_trajectory(0, Ungraded(reason="x")))], overlong) == {}


def test_equal_rewards_of_different_lengths_teach_and_equal_lengths_do_not() -> None:
    group = group_of(answer(0, 1.0, 6), answer(1, 1.0, 8))
    assert judge([group], section(overlong=None), seed=0, step=0).accepted == ()
    short, long = judge([group], section(), seed=0, step=0).accepted
    assert short.advantage > 0 > long.advantage
    assert judge([group_of(answer(0, 1.0, 8), answer(1, 1.0, 8))], section(), seed=0, step=0).accepted == ()


def test_the_last_turn_pays() -> None:
    overlong = Overlong(max_tokens=10, cache_tokens=4, weight=2.0)
    graded = answer(0, Scored(reward=3.0, turns=(1.0, 2.0)), 4, 4)  # type: ignore[arg-type]
    stepped = answer(1, 3.0, 4, 4)
    stepped = replace(stepped, episode=replace(stepped.episode, rewards=(1.0, 2.0)))
    at_the_end = answer(2, 3.0, 4, 4)
    (group,) = overlong.shaped([group_of(graded, stepped, at_the_end)])
    assert [member.reward for member in group.members] == [2.0] * 3
    turns = [turn_rewards(member, 2.0) for member in group.members]
    assert turns == [(1.0, 1.0), (1.0, 1.0), (0.0, 2.0)]


def test_the_control_experiment_shuffles_what_length_costs_too() -> None:
    groups = [
        Group(
            task_id=f"t{n}",
            members=tuple(
                replace(member, key=replace(member.key, task_id=f"t{n}"))
                for member in (answer(0, 1.0, 6), answer(1, 1.0, 12))
            ),
        )
        for n in range(40)
    ]
    found = judge(groups, section(shuffle_rewards=True), seed=0, step=0)
    best = {each.trajectory.key.sample for each in found.accepted if each.advantage > 0}
    assert best == {0, 1}


def test_an_advantage_that_needs_rewards_from_zero_on_is_refused_with_a_penalty() -> None:
    check_advantage(section(overlong=None, advantage="max_rl"), (0.0, 1.0))
    with pytest.raises(RecipeError, match=r"needs rewards of 0 or more, .* go down to -1 with grpo.overlong"):
        check_advantage(section(advantage="max_rl"), (0.0, 1.0))


# --- the overlong filter ---


def cut(sample: int, reward: float) -> Trajectory:
    return make_trajectory(sample, reward, stop=StopReason.MAX_TOKENS)


def test_masked_episodes_count_for_their_siblings_and_are_in_no_loss() -> None:
    group = group_of(make_trajectory(0, 1.0), make_trajectory(1, 0.0), cut(2, 0.0))
    found = judge([group], section(overlong=None, truncated="mask", advantage="dr_grpo"), seed=0, step=0)
    assert [each.advantage for each in found.accepted] == pytest.approx([2 / 3, -1 / 3])
    assert [(each.key.sample, each.reason, each.detail) for each in found.rejected] == [
        (2, Reason.MASKED, "max_tokens")
    ]
    assert judgement_metrics(found)["rejected_masked"] == 1
    bias = bias_metrics([group], found, (0.0, 1.0))
    assert bias["lost_share"] == 0.0 and bias["reward_kept"] == pytest.approx(1 / 3)


def test_an_episode_whose_last_answer_was_cut_is_a_truncated_one() -> None:
    def said(sample: int, reward: float, *finishes: str) -> Trajectory:
        answers = [AssistantMessage("so", usage=Usage(finish=finish)) for finish in finishes]
        member = make_trajectory(sample, reward)
        return replace(
            member, episode=replace(member.episode, messages=(UserMessage("hi"), *answers), num_opening=1)
        )

    group = group_of(said(0, 1.0, "length", "stop"), said(1, 0.0, "stop", "length"), said(2, 0.5))
    found = credit(group, policy=GroupPolicy(truncated="mask"))
    assert [(each.key.sample, each.detail) for each in found.rejected] == [(1, "the last answer's length")]
    assert episode_metrics([group], maximum=1.0)["truncated_share"] == 1 / 3


@pytest.mark.parametrize("stop", [stop for stop in StopReason if stop is not StopReason.FAILED])
def test_what_ran_out_of_turns_or_time_was_not_cut_at_a_length(stop: StopReason) -> None:
    found = episode_metrics([group_of(make_trajectory(0, 1.0, stop=stop))], maximum=1.0)
    assert found["cut_share"] == float(stop in ("max_tokens", "context"))
    assert found["truncated_share"] == float(stop != "done")


def test_a_group_of_equals_is_dropped_and_not_masked() -> None:
    found = credit(group_of(make_trajectory(0, 0.0), cut(1, 0.0)), policy=GroupPolicy(truncated="mask"))
    assert [each.reason for each in found.rejected] == [Reason.ZERO_VARIANCE] * 2


def test_a_masked_member_is_no_lost_sibling_and_fills_the_group() -> None:
    group = group_of(make_trajectory(0, 1.0), cut(1, 0.0))
    found = credit(group, policy=GroupPolicy(truncated="mask", lost="group", min_size=2))
    assert [each.trajectory.key.sample for each in found.accepted] == [0]
    dropped = credit(group, policy=GroupPolicy(truncated="drop"))
    assert [each.reason for each in dropped.rejected] == [Reason.TRUNCATED, Reason.SMALL_GROUP]
