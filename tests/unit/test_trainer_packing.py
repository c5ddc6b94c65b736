"""Rows in one line: each as if it were alone, each trained token once, a common beginning once."""

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import FAMILIES, tiny_model
from torch import Tensor
from trainer_builders import Found, found_by, make_learner, make_row, random_rows, sibling_rows, values_of

from palaestra.trainer.batches.attention import Layout, attend
from palaestra.trainer.batches.packing import MicroBatch, micro_batches
from palaestra.trainer.batches.rows import Row, make_batch
from palaestra.trainer.config import LearnerConfig
from palaestra.trainer.learner import Learner

CPU = torch.device("cpu")


# --- the plan ---


def check_plan(rows: Sequence[Row], micros: Sequence[MicroBatch], budget: int) -> None:
    """Every trained token once, predicted by a position whose spans spell its row's beginning."""
    where = sorted(pair for micro in micros for pair in micro.trained.where)
    assert where == sorted((index, at) for index, row in enumerate(rows) for at in row.trained)
    for micro in micros:
        line, positions = values_of(micro.inputs_T), values_of(micro.positions_T)
        assert len(line) <= budget or len({row for row, _ in micro.trained.where}) == 1
        seen_by = dict[int, list[int]]()
        for spans in micro.layout.spans:
            seen = [at for start, end in spans for at in range(start, end)]
            own = range(*spans[-1])
            seen_by |= {at: seen[: len(seen) - len(own) + number + 1] for number, at in enumerate(own)}
        assert sorted(seen_by) == list(range(len(line)))
        for (row, at), source, target in zip(
            micro.trained.where,
            values_of(micro.trained.source_N),
            values_of(micro.trained.targets_N),
            strict=True,
        ):
            assert rows[row].tokens.ids[at] == target
            assert positions[source] == at - 1
            assert tuple(line[key] for key in seen_by[source]) == rows[row].tokens.ids[:at]


@given(st.integers(1, 20), st.integers(1, 200), st.integers(0, 5))
def test_micro_batches_hold_every_trained_token_once_within_the_budget(
    num: int, budget: int, seed: int
) -> None:
    rows = random_rows(num, seed=seed)
    check_plan(rows, micro_batches(rows, budget, CPU), budget)


@given(st.integers(1, 4), st.integers(1, 6), st.integers(1, 100), st.integers(1, 12), st.integers(0, 9))
def test_with_shared_prefixes_too(groups: int, num: int, budget: int, share_from: int, seed: int) -> None:
    rows = sibling_rows(groups, num, seed=seed)
    micros = micro_batches(rows, budget, CPU, share_from=share_from)
    check_plan(rows, micros, budget)
    for micro in micros:
        shared = [sum(end - start for start, end in spans[:-1]) for spans in micro.layout.spans]
        assert all(num == 0 or num >= share_from for num in shared)


def test_a_common_beginning_stands_in_the_line_once() -> None:
    prompt = list(range(10, 20))
    tails = ([1, 2, 3], [1, 2, 4], [5, 6, 7], [1, 9, 9])
    rows = [make_row([*prompt, *tail], [False] * 10 + [True] * 3) for tail in tails]
    (shared,) = micro_batches(rows, 1000, CPU, share_from=4)
    # the last token of a row is predicted, never read; the prompt, 1, and the second tokens of four tails
    assert len(shared.inputs_T) == 10 + len({(1,), (1, 2), (5,), (5, 6), (1, 9)}) + 1
    (plain,) = micro_batches(rows, 1000, CPU)
    assert len(plain.inputs_T) == 4 * 12


def test_lines_are_filled_to_nine_tenths() -> None:
    rows = random_rows(60)
    micros = micro_batches(rows, 60, CPU)
    assert sum(len(micro.inputs_T) for micro in micros) > 0.9 * 60 * len(micros)


@given(st.integers(1, 10), st.integers(1, 40), st.integers(0, 3))
def test_parts_of_a_micro_batch_are_whole_rows(num: int, most: int, seed: int) -> None:
    for micro in micro_batches(random_rows(num, seed=seed), 100, CPU, level="turn", max_trained=most):
        parts = micro.parts
        assert [pair for part in parts for pair in part.where] == list(micro.trained.where)
        rows = [{row for row, _ in part.where} for part in parts]
        assert sum(map(len, rows)) == len(set[int]().union(*rows))
        for part, members in zip(parts, rows, strict=True):
            assert len(part.where) <= most or len(members) == 1
            assert len(part.where) == len(part.source_N) == len(part.targets_N)


def test_tokens_that_no_loss_looks_beyond_are_cut_where_a_part_is_full() -> None:
    before = 0
    for micro in micro_batches(random_rows(12), 100, CPU, max_trained=7):
        sizes = [len(part.where) for part in micro.parts]
        assert set(sizes[:-1]) <= {7} and 1 <= sizes[-1] <= 7
        assert [pair for part in micro.parts for pair in part.where] == list(micro.trained.where)
        for part, size in zip(micro.parts, sizes, strict=True):
            assert part.place == slice(before, before + size)
            before += size


def test_runs_that_leave_a_hole_in_the_line_are_refused() -> None:
    with pytest.raises(AssertionError, match="do not fill the line"):
        Layout(spans=(((0, 3),), ((4, 6),)))


# --- the model ---


def found(rows: Sequence[Row], **config: Any) -> Found:
    return found_by(make_learner(LearnerConfig(**config)), make_batch(rows))


@pytest.mark.parametrize("budget", [1, 30, 100_000])
@pytest.mark.parametrize("share_from", [1, 5])
@pytest.mark.parametrize("is_checkpointed", [False, True])
def test_shared_prefixes_change_neither_loss_nor_gradient(
    budget: int, share_from: int, is_checkpointed: bool
) -> None:
    rows = sibling_rows(3, 5)
    alone = found(rows, micro_batch_tokens=1)
    shared = found(
        rows,
        micro_batch_tokens=budget,
        share_prefixes_from=share_from,
        activation_checkpointing=is_checkpointed,
    )
    assert alone.gap(shared) <= 1e-12


def backwards(rows: list[Row]) -> list[Row]:
    return rows[::-1]


def shuffled(rows: list[Row]) -> list[Row]:
    return random.Random(3).sample(rows, len(rows))


@pytest.mark.parametrize("order", [backwards, shuffled])
def test_the_order_of_rows_changes_nothing_with_shared_prefixes(
    order: Callable[[list[Row]], list[Row]],
) -> None:
    rows = sibling_rows(3, 4)
    config: dict[str, Any] = {"share_prefixes_from": 1, "micro_batch_tokens": 60}
    assert found(rows, **config).gap(found(order(rows), **config)) <= 1e-12


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("window", [None, 4])
def test_packed_rows_are_what_they_are_alone(family: str, window: int | None) -> None:
    """Sliding windows as well: Qwen2 has them in its config."""
    more = {"use_sliding_window": True, "sliding_window": window, "max_window_layers": 0} if window else {}
    if window and family != "qwen2":
        pytest.skip("its config has no window")
    rows = sibling_rows(2, 4)
    expected: list[float] = []
    for row in rows:
        ids = torch.tensor([row.tokens.ids])
        with torch.no_grad():
            logits = tiny_model(family, dtype=torch.float64, **more)(input_ids=ids, use_cache=False).logits[0]
        found = logits.log_softmax(-1)[:-1].gather(1, ids[0, 1:, None])[:, 0]
        expected += [0.0, *(found * torch.tensor(row.tokens.mask[1:])).tolist()]
    for share in (None, 1):
        learner = Learner(
            tiny_model(family, dtype=torch.float64, **more), LearnerConfig(share_prefixes_from=share)
        )
        ours = [value for values in learner.logprobs(rows) for value in values]
        assert ours == pytest.approx(expected, abs=1e-6)


# --- contamination ---


def without_walls(*arguments: Any, layout: Layout | None = None, **kwargs: Any) -> tuple[Tensor, None]:
    """An attention that takes a line for one row, as a full mask does."""
    module, query, key, value, mask = arguments
    return attend(module, query, key, value, None if layout else mask, **kwargs)


def without_layout(*arguments: Any, layout: Layout | None = None, **kwargs: Any) -> tuple[Tensor, None]:
    """An attention that forgets it on the way."""
    return attend(*arguments, **kwargs)


def without_beginnings(*arguments: Any, layout: Layout | None = None, **kwargs: Any) -> tuple[Tensor, None]:
    """An attention that keeps rows apart, but not what they share."""
    cut = None if layout is None else Layout(spans=tuple(spans[-1:] for spans in layout.spans))
    return attend(*arguments, layout=cut, **kwargs)


@pytest.mark.parametrize(
    ("attention", "message"),
    [
        (without_walls, "LlamaForCausalLM lets packed rows see each other"),
        (without_layout, "LlamaAttention did not get the layout"),
        (without_beginnings, "LlamaForCausalLM computes other hidden states for a packed row"),
    ],
)
def test_a_model_that_would_mix_rows_is_refused(
    attention: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("palaestra.trainer.batches.attention.attend", attention)
    with pytest.raises(ValueError, match=message):
        Learner(tiny_model("llama"))


def test_a_model_whose_tokens_meet_outside_its_attention_is_refused() -> None:
    def mix(module: Any, inputs: Any, output: Any) -> Any:
        return output + output.roll(1, dims=1)

    model = tiny_model("llama")
    model.model.norm.register_forward_hook(mix)
    with pytest.raises(ValueError, match="LlamaForCausalLM lets packed rows see each other"):
        Learner(model)


@pytest.mark.parametrize("share_from", [None, 1])
def test_an_episode_stays_together_where_a_loss_asks_for_it(share_from: int | None) -> None:
    rows = random_rows(12)
    keys: list[set[int]] = []
    for micro in micro_batches(rows, 40, CPU, share_from=share_from, level="episode", max_trained=1):
        keys += [{rows[row].key.sample for row, _ in part.where} for part in micro.parts]
    assert sum(map(len, keys)) == len(set[int]().union(*keys)), "no episode is in two parts"
