"""Rows and normalisers."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from trainer_builders import make_graph, make_row, make_trajectory, random_rows

from palaestra.trainer.advantages import Accepted
from palaestra.trainer.batches.packing import micro_batches
from palaestra.trainer.batches.rows import (
    Aggregation,
    Normaliser,
    Row,
    make_batch,
    split_batch,
    training_rows,
)

CPU = torch.device("cpu")


def test_a_row_trains_what_was_sampled_and_nothing_else() -> None:
    graph = make_graph(([5, 6], [7, 8]), ([5, 6, 7, 8, 9], [10]))
    (row,) = training_rows([Accepted(trajectory=make_trajectory(graph=graph), advantage=0.5)])
    assert row.tokens.ids == (5, 6, 7, 8, 9, 10)
    assert row.advantages == (0.0, 0.0, 0.5, 0.5, 0.0, 0.5)
    assert row.tokens.logprobs == (0.0, 0.0, -7.0, -8.0, 0.0, -10.0)
    assert (row.trained, row.trained_until, row.episode_tokens) == ([2, 3, 5], 5, 3)


def test_every_sampled_token_of_a_forked_episode_is_trained_once() -> None:
    graph = make_graph(([1, 2], [3, 4]), ([1, 2, 3, 9], [5]), ([1, 2, 3, 4, 6], [7, 8]))
    rows = training_rows([Accepted(trajectory=make_trajectory(graph=graph), advantage=1.0)])
    assert len(rows) > 1
    trained = [row.tokens.ids[at] for row in rows for at in row.trained]
    assert sorted(trained) == [3, 4, 5, 7, 8]
    assert {row.episode_tokens for row in rows} == {5}


def test_an_episode_with_five_segments_weighs_as_much_as_one_with_one() -> None:
    many = [make_row([1, 2, 3], [False, True, True], sample=0, episode_tokens=10) for _ in range(5)]
    rows = [*many, make_row([1, 2], [False, True], sample=1)]
    count = Normaliser.count(rows, Aggregation.EPISODE)
    shares = [sum(count.weights(row)) for row in rows]
    assert sum(shares[:5]) == pytest.approx(0.5)
    assert shares[5] == pytest.approx(0.5)


def test_with_token_aggregation_every_trained_token_weighs_the_same() -> None:
    rows = [make_row([1, 2, 3], [False, True, True]), make_row([1, 2], [False, True], sample=1)]
    weights = [make_batch(rows).normaliser.weights(row) for row in rows]
    assert weights == [(0.0, 1 / 3, 1 / 3), (0.0, 1 / 3)]


@given(st.integers(1, 12), st.integers(0, 5), st.sampled_from(list(Aggregation)))
def test_the_weights_of_a_step_sum_to_one_or_to_the_share_of_what_episodes_may_have(
    num: int, seed: int, aggregation: Aggregation
) -> None:
    max_tokens = 50 if aggregation is Aggregation.CONSTANT else None
    batch = make_batch(random_rows(num, seed=seed), aggregation, max_tokens=max_tokens)
    total = sum(sum(batch.normaliser.weights(row)) for row in batch.rows)
    episodes = batch.normaliser.num_episodes
    share = 1.0 if max_tokens is None else batch.normaliser.num_tokens / (episodes * max_tokens)
    assert total == pytest.approx(share)


@pytest.mark.parametrize("aggregation", list(Aggregation))
def test_normalisers_of_two_ranks_add_up_to_the_one_of_both(aggregation: Aggregation) -> None:
    left = random_rows(5, seed=1)
    right = [make_row([1, 2], [False, True], task_id="other")]
    most = 50 if aggregation is Aggregation.CONSTANT else None
    both = Normaliser.count([*left, *right], aggregation, most)
    assert Normaliser.count(left, aggregation, most) + Normaliser.count(right, aggregation, most) == both


def test_normalisers_of_different_kinds_do_not_add_up() -> None:
    rows = random_rows(2)
    with pytest.raises(ValueError, match="token and a episode"):
        _ = Normaliser.count(rows, Aggregation.TOKEN) + Normaliser.count(rows, Aggregation.EPISODE)


def test_parts_of_a_step_keep_its_normaliser_lose_no_row_and_split_no_episode() -> None:
    batch = make_batch(random_rows(7))
    parts = split_batch(batch, 3)
    assert {part.normaliser for part in parts} == {batch.normaliser}
    assert sorted(id(row) for part in parts for row in part.rows) == sorted(map(id, batch.rows))
    keys = [{row.key for row in part.rows} for part in parts]
    assert sum(map(len, keys)) == len({row.key for row in batch.rows})


def test_in_turn_and_prompt_aggregation_each_turn_or_task_weighs_the_same() -> None:
    rows = [
        make_row([1, 2, 3, 4, 5], [False, True, True, False, True]),
        make_row([1, 2, 3], [False, True, True], sample=1),
        make_row([1, 2], [False, True], task_id="other"),
    ]
    turn = make_batch(rows, "turn").normaliser
    assert turn.weights(rows[0]) == (0.0, 1 / 8, 1 / 8, 0.0, 1 / 4)
    assert [sum(turn.weights(row)) for row in rows] == pytest.approx([1 / 2, 1 / 4, 1 / 4])
    prompt = make_batch(rows, "prompt").normaliser
    assert prompt.weights(rows[0]) == pytest.approx((0.0, 0.1, 0.1, 0.0, 0.1))
    assert [sum(prompt.weights(row)) for row in rows] == pytest.approx([0.3, 0.2, 0.5])


def test_turns_of_a_forked_episode_are_numbered_as_they_were_sampled_and_carry_their_own_advantage() -> None:
    graph = make_graph(([1, 2], [3, 4]), ([1, 2, 3, 9], [5]), ([1, 2, 3, 9, 5, 6], [7, 8]))
    member = Accepted(trajectory=make_trajectory(graph=graph), advantage=0.0, turns=(0.1, 0.2, 0.3))
    rows = training_rows([member])
    assert [row.turns for row in rows] == [(-1, -1, 0, 0), (-1, -1, -1, -1, 1, -1, 2, 2)]
    assert [row.advantages for row in rows] == [(0, 0, 0.1, 0.1), (0, 0, 0, 0, 0.2, 0, 0.3, 0.3)]


@pytest.mark.parametrize(("aggregation", "max_tokens"), [("constant", None), ("token", 10)])
def test_only_constant_aggregation_is_told_a_number_of_tokens(
    aggregation: str, max_tokens: int | None
) -> None:
    with pytest.raises(ValueError, match="constant needs the tokens"):
        make_batch(random_rows(2), aggregation, max_tokens=max_tokens)


def test_a_row_that_begins_with_a_sampled_token_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing precedes it"):
        make_row([1, 2], [True, True])


def test_turns_that_are_not_those_of_the_mask_are_refused() -> None:
    row = make_row([1, 2, 3], [False, True, True])
    assert row.turns == (-1, 0, 0)
    with pytest.raises(ValueError, match="not those of the mask"):
        replace(row, turns=(-1, 0, -1))


@pytest.mark.parametrize("aggregation", list(Aggregation))
def test_a_key_that_two_episodes_share_or_an_episode_that_is_not_whole_is_refused(
    aggregation: Aggregation,
) -> None:
    most = 20 if aggregation is Aggregation.CONSTANT else None
    two = [make_row([1, 2, 3], [False, True, True]), make_row([1, 2, 4], [False, True, True])]
    part = make_row([1, 2], [False, True], episode_tokens=3)
    none = make_row([1, 2], [False, True], episode_tokens=0)
    for rows, said, are in ((two, 2, 4), ([part], 3, 1), ([none], 0, 1)):
        with pytest.raises(ValueError, match=f"sample=0.*episode_tokens={said}, and .* {are} trained tokens"):
            make_batch(rows, aggregation, max_tokens=most)
    make_batch([two[0], replace(two[1], key=replace(two[1].key, sample=1))], aggregation, max_tokens=most)


def test_rows_without_a_trained_token_are_in_no_micro_batch() -> None:
    rows: list[Row] = [make_row([1, 2], [False, False])]
    assert micro_batches(rows, 100, CPU) == []
    assert micro_batches(rows, 100, CPU, share_from=1) == []
