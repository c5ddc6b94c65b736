"""Advantages: closed forms, enumeration and properties."""

import itertools
import math
import random
import statistics
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palaestra.trainer.advantages import Advantage, Graded, Value, advantage_names, load_advantage

EPISODE = ["dr_grpo", "gpg", "grpo", "opo", "reinforce_pp", "reinforce_pp_baseline", "rloo"]
"""Those with one number for an episode of any reward."""
REWARDS = st.lists(st.integers(-1000, 1000).map(lambda n: n / 8), min_size=2, max_size=16)


def graded(rewards: Sequence[float]) -> list[Graded]:
    return [Graded(reward=reward, turns=(reward,)) for reward in rewards]


def advantages(rewards: Sequence[float], name: str = "grpo", **options: Any) -> list[float]:
    (found,) = load_advantage(name, **options)([graded(rewards)])
    return [each[0] if isinstance(each, tuple) else each for each in found]


def test_grpo_dr_grpo_and_rloo_equal_their_formulas() -> None:
    rewards = [1.0, 0.0, 0.0, 0.0]
    assert (
        advantages(rewards, "dr_grpo") == advantages(rewards, normalise=False) == [0.75, -0.25, -0.25, -0.25]
    )
    assert advantages(rewards, "rloo") == pytest.approx((1.0, -1 / 3, -1 / 3, -1 / 3))
    std = math.sqrt((0.75**2 + 3 * 0.25**2) / 3)
    assert advantages(rewards) == pytest.approx([each / (std + 1e-4) for each in (0.75, -0.25, -0.25, -0.25)])


def test_rloo_is_the_reward_minus_the_mean_of_the_others() -> None:
    rewards = [3.0, 1.0, 4.0, 1.5, 9.0]
    expected = [reward - (sum(rewards) - reward) / (len(rewards) - 1) for reward in rewards]
    assert advantages(rewards, "rloo") == pytest.approx(expected)


@given(st.lists(REWARDS, min_size=1, max_size=5))
def test_reinforce_pp_takes_mean_and_scale_from_the_whole_batch(batch: list[list[float]]) -> None:
    flat = [reward for rewards in batch for reward in rewards]
    std, mean = statistics.stdev(flat), statistics.fmean(flat)
    found = load_advantage("reinforce_pp")([graded(rewards) for rewards in batch])
    expected = [[(reward - mean) / (std + 1e-4) for reward in rewards] for rewards in batch]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-9)


@given(st.lists(REWARDS, min_size=1, max_size=5))
def test_reinforce_pp_baseline_centres_by_group_and_scales_by_batch(batch: list[list[float]]) -> None:
    centred = [[reward - statistics.fmean(rewards) for reward in rewards] for rewards in batch]
    std = statistics.stdev([each for group in centred for each in group])
    found = load_advantage("reinforce_pp_baseline")([graded(rewards) for rewards in batch])
    for ours, theirs in zip(found, centred, strict=True):
        assert ours == pytest.approx([each / (std + 1e-4) for each in theirs], abs=1e-9)


def test_opo_weighs_the_baseline_by_length_which_minimises_the_variance_of_length_weighted_gradients() -> (
    None
):
    members = [Graded(reward=reward, num_tokens=num) for reward, num in ((1.0, 10), (0.0, 30), (0.5, 20))]
    (found,) = load_advantage("opo")([members])
    assert found == pytest.approx([1 - 1 / 3, -1 / 3, 0.5 - 1 / 3])

    def spread(baseline: float) -> float:  # sum of l * (r - b)^2, the variance when squared norms grow with l
        return sum(member.num_tokens * (member.reward - baseline) ** 2 for member in members)

    assert spread(1 / 3) < min(spread(1 / 3 + 0.01), spread(1 / 3 - 0.01))


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize(("size", "passed", "k"), [(6, 1, 2), (6, 3, 2), (8, 2, 4), (5, 1, 5), (4, 1, 1)])
def test_pass_at_k_equals_the_mean_over_all_subsets_of_k(
    size: int, passed: int, k: int, normalise: bool
) -> None:
    rewards = [1.0] * passed + [0.0] * (size - passed)
    subsets = list(itertools.combinations(range(size), k))
    scores = [max(rewards[at] for at in subset) for subset in subsets]
    mean, std = statistics.fmean(scores), statistics.pstdev(scores)
    expected = [
        0.0
        if std == 0
        else (statistics.fmean(s for s, subset in zip(scores, subsets, strict=True) if at in subset) - mean)
        / (std if normalise else 1.0)
        for at in range(size)
    ]
    found = advantages(rewards, "pass_at_k", k=k, normalise=normalise)
    assert found == pytest.approx(expected, abs=1e-12)


def test_gpg_makes_up_for_groups_that_teach_nothing_only_when_it_is_told_that_they_count() -> None:
    batch = [graded([1.0, 0.0]), graded([1.0, 1.0]), graded([0.0, 0.0]), graded([0.0, 2.0])]
    plain: list[list[Value]] = [[0.5, -0.5], [0.0, 0.0], [0.0, 0.0], [-1.0, 1.0]]
    assert load_advantage("gpg")(batch) == plain
    doubled = [[2 * each for each in group if not isinstance(each, tuple)] for group in plain]
    assert load_advantage("gpg", rescale=True)(batch) == doubled


@pytest.mark.parametrize("size", [2, 3, 6])
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_max_rl_estimates_the_gradient_of_the_log_of_the_pass_rate_up_to_the_group_size(
    size: int, rate: float
) -> None:
    """Of a coin that passes with `rate`: d log p / dp = 1 / p = sum((1 - p)^(k - 1)), cut off after size -
    1."""
    score = {1.0: 1 / rate, 0.0: -1 / (1 - rate)}  # d log pi / dp
    found = 0.0
    for rewards in itertools.product((0.0, 1.0), repeat=size):
        chance = math.prod(rate if reward else 1 - rate for reward in rewards)
        values = advantages(rewards, "max_rl")
        found += chance * sum(a * score[r] for a, r in zip(values, rewards, strict=True)) / size
    assert found == pytest.approx(sum((1 - rate) ** (k - 1) for k in range(1, size)), rel=1e-12)


def test_max_rl_refuses_rewards_under_zero() -> None:
    with pytest.raises(ValueError, match="a reward of -1"):
        advantages([-1.0, 1.0], "max_rl")


TURNS = [Graded(reward=3.0, turns=(1.0, 0.0, 2.0)), Graded(reward=1.0, turns=(1.0,))]


def test_monte_carlo_pays_each_turn_for_what_came_after_it() -> None:
    plain = load_advantage("monte_carlo", gamma=0.5, baseline="none")([TURNS])
    assert plain == [[(1.5, 1.0, 2.0), (1.0,)]]
    mean = ((1.5 + 1.0 + 2.0) / 3 + 1.0) / 2
    (found,) = load_advantage("monte_carlo", gamma=0.5)([TURNS])
    assert found == [pytest.approx((1.5 - mean, 1.0 - mean, 2.0 - mean)), pytest.approx((1.0 - mean,))]
    std = math.sqrt(statistics.fmean((each - mean) ** 2 for each in (1.5, 1.0, 2.0)) + (1.0 - mean) ** 2)
    (scaled,) = load_advantage("monte_carlo", gamma=0.5, normalise=True)([TURNS])
    assert scaled[1] == pytest.approx(((1.0 - mean) / (std + 1e-4),))


@pytest.mark.parametrize("normalise", [False, True])
@given(
    st.lists(st.tuples(st.sampled_from([0.0, 0.25, 1.0]), st.integers(1, 6)), min_size=2, max_size=6),
)
def test_monte_carlo_of_a_reward_at_the_end_is_grpo_on_every_turn_however_many_there_are(
    normalise: bool, members: list[tuple[float, int]]
) -> None:
    group = [Graded(reward=reward, turns=(*(0.0,) * (num - 1), reward)) for reward, num in members]
    (found,) = load_advantage("monte_carlo", normalise=normalise)([group])
    expected = advantages([reward for reward, _ in members], "grpo", normalise=normalise)
    for turns, advantage, (_, num) in zip(found, expected, members, strict=True):
        assert turns == pytest.approx((advantage,) * num)


def test_turn_groups_compare_the_turns_of_one_number_and_leave_a_lonely_one_at_zero() -> None:
    (found,) = load_advantage("turn_groups", normalise=False)([TURNS])
    assert found == [(1.0, 0.0, 0.0), (-1.0,)]
    (scaled,) = load_advantage("turn_groups")([TURNS])
    assert scaled[1] == pytest.approx((-1.0 / (math.sqrt(2) + 1e-4),))


def test_weights_add_the_credit_of_the_episode_to_that_of_its_turns() -> None:
    parts = {"dr_grpo": 2.0, "turn_groups": 0.5}
    options = {"turn_groups": {"normalise": False}}
    (found,) = load_advantage("weighted", parts=parts, options=options)([TURNS])
    assert found == [(2.5, 2.0, 2.0), (-2.5,)]
    assert advantages([1.0, 0.0], "weighted", parts={"dr_grpo": 3.0}) == [1.5, -1.5]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("weighted", {"parts": {}}, "at least one"),
        ("weighted", {"parts": {"grpo": 1.0}, "options": {"rloo": {}}}, "options"),
        ("weighted", {"parts": {"nothing": 1.0}}, "unknown advantage 'nothing'"),
        ("monte_carlo", {"gamma": 1.5}, "gamma is 1.5"),
        ("monte_carlo", {"baseline": "mean"}, "'group' or 'none'"),
        ("turn_groups", {"gamma": -0.1}, "gamma is -0.1"),
        ("pass_at_k", {"k": 0}, "k is 0"),
        ("pass_at_k", {"k": "many"}, "k: 'many': .*valid integer"),
    ],
)
def test_options_that_make_no_sense_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_advantage(name, **options)


@given(REWARDS, st.sampled_from(sorted({*EPISODE} - {"opo"})))
def test_advantages_sum_to_zero_and_keep_the_order_of_rewards(rewards: list[float], name: str) -> None:
    found = advantages(rewards, name)
    assert math.fsum(found) == pytest.approx(0, abs=1e-9 * max(1, *map(abs, found)) * len(found))
    for left in range(len(rewards)):
        for right in range(len(rewards)):
            if rewards[left] > rewards[right]:
                assert found[left] > found[right]


@given(REWARDS, st.integers(-100, 100), st.sampled_from(EPISODE))
def test_a_shift_of_all_rewards_changes_nothing(rewards: list[float], shift: int, name: str) -> None:
    shifted = [reward + shift for reward in rewards]
    assert advantages(shifted, name) == pytest.approx(advantages(rewards, name), abs=1e-9)


@given(REWARDS, st.integers(1, 64))
def test_a_scale_scales_what_is_not_normalised_and_hardly_touches_what_is(
    rewards: list[float], scale: int
) -> None:
    scaled = [reward * scale for reward in rewards]
    for name in ("dr_grpo", "rloo", "opo", "gpg", "monte_carlo"):
        expected = [each * scale for each in advantages(rewards, name)]
        assert advantages(scaled, name) == pytest.approx(expected, abs=1e-9)
    for name in ("grpo", "reinforce_pp", "turn_groups"):
        assert advantages(scaled, name) == pytest.approx(advantages(rewards, name), rel=5e-3)


@given(REWARDS, st.randoms(use_true_random=False), st.sampled_from(EPISODE))
def test_the_order_of_members_does_not_matter(rewards: list[float], order: random.Random, name: str) -> None:
    index = list(range(len(rewards)))
    order.shuffle(index)
    found = advantages(rewards, name)
    assert advantages([rewards[at] for at in index], name) == pytest.approx([found[at] for at in index])


@pytest.mark.parametrize("name", [*EPISODE, "max_rl", "monte_carlo", "turn_groups"])
def test_equal_rewards_have_advantage_exactly_zero(name: str) -> None:
    assert advantages([0.1] * 7, name) == [0.0] * 7


@pytest.mark.parametrize("name", [*EPISODE, "max_rl", "monte_carlo", "turn_groups"])
@pytest.mark.parametrize("size", [1.0, 1e6])
def test_rewards_that_were_added_in_another_order_are_equal(name: str, size: float) -> None:
    """0.1 + 0.2 is not 0.3; a millionth of them is another reward."""
    rewards = [size * (0.1 + 0.2), size * 0.3, size * (0.2 + 0.1)]
    assert len(set(rewards)) > 1
    assert advantages(rewards, name) == [0.0] * 3
    assert all(advantages([*rewards[:2], rewards[2] * (1 + 1e-6)], name))


@pytest.mark.parametrize("normalise", [False, True])
def test_opo_has_nothing_to_teach_a_group_that_sampled_no_token(normalise: bool) -> None:
    empty = [Graded(reward=reward, num_tokens=0) for reward in (1.0, 0.0)]
    assert load_advantage("opo", normalise=normalise)([empty, empty]) == [[0.0, 0.0]] * 2
    assert load_advantage("weighted", parts={"opo": 2.0})([empty]) == [[0.0, 0.0]]
    (found,) = load_advantage("opo")([[*empty, Graded(reward=0.5, num_tokens=3)]])
    assert found == [0.5, -0.5, 0.0]  # with one that did, its reward is the baseline


@pytest.mark.parametrize("name", sorted({*EPISODE} - {"reinforce_pp"}))
@pytest.mark.parametrize("rewards", [[], [1.0]])
def test_a_single_reward_is_no_advantage(name: str, rewards: list[float]) -> None:
    with pytest.raises(ValueError, match=r"2 or more|needs 2"):
        advantages(rewards, name)


@pytest.mark.parametrize("name", [*EPISODE, "max_rl", "monte_carlo"])
@pytest.mark.parametrize("reward", [math.nan, math.inf])
def test_a_reward_that_is_no_number_is_refused(reward: float, name: str) -> None:
    with pytest.raises(ValueError, match="not all finite"):
        advantages([1.0, reward], name)


# --- the registry ---


def test_every_algorithm_loads_by_its_name() -> None:
    names = advantage_names()
    assert {*EPISODE, "max_rl", "monte_carlo", "pass_at_k", "turn_groups", "weighted"} == set(names)
    for name in names:
        options: dict[str, Any] = {"parts": {"grpo": 1.0}} if name == "weighted" else {}
        found: Advantage = load_advantage(name, **options)
        assert callable(found)


def test_an_unknown_algorithm_or_option_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown advantage 'ppo'; known: .*rloo"):
        load_advantage("ppo")
    with pytest.raises(ValueError, match=r"'grpo': gamma: 1\.0: no such field; known: normalise"):
        load_advantage("grpo", gamma=1.0)
