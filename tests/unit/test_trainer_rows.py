"""Rows and normalisers."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from trainer_builders import make_graph, make_row, make_trajectory, random_rows

from palaestra.trainer.advantages import Accepted
from palaestra.trainer.packing import micro_batches
from palaestra.trainer.rows import Aggregation, Normaliser, Row, make_batch, split_batch, training_rows

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
    shares = [count.weight(row) * sum(row.tokens.mask) for row in rows]
    assert sum(shares[:5]) == pytest.approx(0.5)
    assert shares[5] == pytest.approx(0.5)


def test_with_token_aggregation_every_trained_token_weighs_the_same() -> None:
    rows = [make_row([1, 2, 3], [False, True, True]), make_row([1, 2], [False, True], sample=1)]
    assert [make_batch(rows).normaliser.weight(row) for row in rows] == [1 / 3, 1 / 3]


@given(st.integers(1, 12), st.integers(0, 5), st.sampled_from(list(Aggregation)))
def test_the_weights_of_a_step_sum_to_one(num: int, seed: int, aggregation: Aggregation) -> None:
    batch = make_batch(random_rows(num, seed=seed), aggregation)
    total = sum(batch.normaliser.weight(row) * sum(row.tokens.mask) for row in batch.rows)
    assert total == pytest.approx(1.0)


@pytest.mark.parametrize("aggregation", list(Aggregation))
def test_normalisers_of_two_ranks_add_up_to_the_one_of_both(aggregation: Aggregation) -> None:
    left = random_rows(5, seed=1)
    right = [make_row([1, 2], [False, True], task_id="other")]
    both = Normaliser.count([*left, *right], aggregation)
    assert Normaliser.count(left, aggregation) + Normaliser.count(right, aggregation) == both


def test_normalisers_of_different_kinds_do_not_add_up() -> None:
    rows = random_rows(2)
    with pytest.raises(ValueError, match="token and a episode"):
        _ = Normaliser.count(rows, Aggregation.TOKEN) + Normaliser.count(rows, Aggregation.EPISODE)


def test_parts_of_a_step_keep_its_normaliser_and_lose_no_row() -> None:
    batch = make_batch(random_rows(7))
    parts = split_batch(batch, 3)
    assert {part.normaliser for part in parts} == {batch.normaliser}
    assert sorted(id(row) for part in parts for row in part.rows) == sorted(map(id, batch.rows))


def test_a_row_that_begins_with_a_sampled_token_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing precedes it"):
        make_row([1, 2], [True, True])


def test_rows_without_a_trained_token_are_in_no_micro_batch() -> None:
    rows: list[Row] = [make_row([1, 2], [False, False])]
    assert micro_batches(rows, 100, CPU) == []
    assert micro_batches(rows, 100, CPU, share_from=1) == []
